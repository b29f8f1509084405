"""A cache of tokenized parts: none is made twice, whether a run was killed or the corpus grew.

The key of a part is a hash of all that decides its bytes, so a changed input has another key. A
cached file is used only if it still has the sha256 that was recorded when it was written.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanogpt.files import file_sha256
from stages.artifacts.clean import CleanCorpus, CleanPart
from stages.artifacts.tokens import SUFFIX
from stages.tokenize.token_parts import Description, record_path, writer_version


@dataclass(frozen=True, kw_only=True)
class Task:
    """A part of the corpus and the file for its tokens."""

    part: CleanPart
    target: Path

    @property
    def name(self) -> str:
        """Return the name of the file in the tokens folder."""
        return self.part.texts.with_suffix(SUFFIX).name


def make_tasks(cleaned: CleanCorpus, tokenizer_fingerprint: str, cache: Path) -> list[Task]:
    """Return one task for each part of a corpus, in order."""
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
    """Return the key of a tokenized part: a hash over the hashes of its inputs."""
    inputs = json.dumps([texts, verdicts, form, tokenizer_fingerprint, writer_version()])
    return hashlib.sha256(inputs.encode("utf-8")).hexdigest()


def cached_description(target: Path) -> Description | None:
    """Return the record of a file of tokens; None if the file is missing or damaged."""
    try:
        description: Description = json.loads(record_path(target).read_bytes())
        intact = description["sha256"] == file_sha256(target)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return description if intact else None


def prune(cache: Path, kept: Iterable[Path]) -> None:
    """Remove all files but those of `kept` from the cache, leftovers of killed runs included."""
    used = {name for target in kept for name in (target, record_path(target))}
    for file in cache.iterdir():
        if file not in used:
            file.unlink(missing_ok=True)
