"""Parts of tokens kept from run to run: none is made twice, after a kill or in a grown corpus.

A part is named by all that decides its bytes, so a changed input is another name, and what is
under a name is taken only if its bytes still have the sha256 that was recorded when it was made.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanogpt.files import file_sha256
from stages.artifacts.clean import CleanCorpus, CleanPart
from stages.tokenize.token_parts import SUFFIX, Description, record_of, written_by


@dataclass(frozen=True, kw_only=True)
class Task:
    """A part of the corpus and where its tokens go."""

    part: CleanPart
    target: Path

    @property
    def name(self) -> str:
        """What the tokens are called next to those of the other parts."""
        return self.part.texts.with_suffix(SUFFIX).name


def tasks_of(cleaned: CleanCorpus, tokenizer_fingerprint: str, cache: Path) -> list[Task]:
    """One task for each part of a corpus, in order."""
    manifest = json.loads((cleaned.corpus / "manifest.json").read_text(encoding="utf-8"))
    texts = {file["name"]: file["sha256"] for file in manifest["files"]}
    verdicts = {file["name"]: file["sha256"] for file in cleaned.manifest["files"]}
    tasks = []
    for part in cleaned.parts:
        name = part.texts.name
        key = part_key(texts[name], verdicts[name], part.form, tokenizer_fingerprint)
        tasks.append(Task(part=part, target=cache / f"{key}{SUFFIX}"))
    return tasks


def part_key(texts: str, verdicts: str, form: str | None, tokenizer_fingerprint: str) -> str:
    """The name of a part of tokens: a hash over the hashes of what it is made of."""
    inputs = json.dumps([texts, verdicts, form, tokenizer_fingerprint, written_by()])
    return hashlib.sha256(inputs.encode("utf-8")).hexdigest()


def finished(target: Path) -> Description | None:
    """What a part of tokens holds if it is whole; None if it is to be made, or made again."""
    try:
        found: Description = json.loads(record_of(target).read_bytes())
        whole = found["sha256"] == file_sha256(target)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def prune(cache: Path, kept: Iterable[Path]) -> None:
    """Remove all that no part in `kept` needs, what killed runs left included."""
    used = {name for target in kept for name in (target, record_of(target))}
    for file in cache.iterdir():
        if file not in used:
            file.unlink(missing_ok=True)
