"""Stage `clean`: which documents of the corpus are worth learning from, and why the others are not.

Nothing is copied and nothing is lost: the corpus stays as it was fetched, a verdict is written for
each of its documents, and the manifest counts what was dropped by reason.
"""

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanogpt.files import file_sha256, whole_folder
from stages.cleaned import Form, row_groups
from stages.command import main
from stages.params import Section, load_section
from stages.settings import Settings
from stages.split import text_hash

CORPUS, OUT = Path("data/corpus"), Path("data/clean")


class CleanParams(Section):
    """The section `clean`."""

    unicode: Form | None
    deduplicate: bool


class Judge:
    """Decides document by document; it remembers what it has seen."""

    def __init__(self, params: CleanParams) -> None:
        self.params = params
        self.seen: set[bytes] = set()

    def verdict(self, text: str) -> tuple[str | None, bytes]:
        """Why a text is dropped, or None, and its hash."""
        if self.params.unicode:
            text = unicodedata.normalize(self.params.unicode, text)
        name = text_hash(text.encode("utf-8"))
        if self.params.deduplicate and name in self.seen:
            return "duplicate", name
        self.seen.add(name)
        return None, name


def judge_part(judge: Judge, part: dict[str, Any], corpus: Path, out: Path) -> dict[str, Any]:
    """Write the verdicts on one part of the corpus; their description."""
    dropped: list[str | None] = []
    hashes: list[bytes] = []
    n_bytes = 0
    for table in row_groups(corpus / part["name"]):
        for text in table.column("text").to_pylist():
            reason, name = judge.verdict(text)
            dropped.append(reason)
            hashes.append(name)
            n_bytes += 0 if reason else len(text.encode("utf-8"))
    columns = {"dropped": pa.array(dropped, pa.string()), "text_hash": pa.array(hashes)}
    pq.write_table(pa.table(columns), out / part["name"], compression="zstd")
    return {
        "name": part["name"],
        "corpus": part["corpus"],
        "documents": len(dropped),
        "kept": dropped.count(None),
        "bytes": n_bytes,
        "dropped": dict(Counter(reason for reason in dropped if reason)),
        "sha256": file_sha256(out / part["name"]),
    }


def run(params: CleanParams, corpus: Path, out: Path) -> None:
    """Write the verdicts and their manifest. Raises ValueError when nothing is kept."""
    source = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    judge = Judge(params)
    with whole_folder(out) as folder:
        files = [judge_part(judge, part, corpus, folder) for part in source["files"]]
        dropped = sum((Counter(file["dropped"]) for file in files), Counter())
        manifest = {
            "version": 1,
            "clean": params.model_dump(),
            "corpus_manifest_sha256": file_sha256(corpus / "manifest.json"),
            "documents": sum(file["documents"] for file in files),
            "kept": sum(file["kept"] for file in files),
            "bytes": sum(file["bytes"] for file in files),
            "dropped": dict(dropped),
            "files": files,
        }
        if not manifest["kept"]:
            raise ValueError(f"`clean` would drop every document: {dict(dropped)}")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"clean: {manifest['kept']:,} of {manifest['documents']:,} documents kept", end="")
    print(f"; dropped: {dict(dropped)}" if dropped else "")


def run_stage(settings: Settings) -> None:
    """`python -m stages.clean`."""
    run(load_section("clean", CleanParams), CORPUS, OUT)


if __name__ == "__main__":
    main("clean", run_stage)
