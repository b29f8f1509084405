"""Stage `clean`: which documents are worth learning from, and why the others are not.

Nothing is copied and nothing is lost: the corpus stays as it was fetched, a verdict is written for
each of its documents, and the manifest counts what was dropped by reason. Of documents that are
alike the first one stays. Same bytes out for any number of workers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanogpt.files import atomic_dir, file_sha256, write_json
from stages.artifacts.corpus import VERSION
from stages.clean.near_duplicates import MINIMA, near_duplicates
from stages.clean.params import FILTERS, CleanParams
from stages.clean.rules import KEPT, Judgement, Rules, judgements
from stages.lib.arrow import from_numbers, from_texts
from stages.lib.params import load_section
from stages.lib.reasons import in_words
from stages.lib.text_hash import hash_column
from stages.runtime.settings import Settings

CORPUS, OUT = Path("data/corpus"), Path("data/clean")


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What all n documents of a corpus showed by themselves; 26 bytes each."""

    verdicts: NDArray[np.uint16]  # (n,)
    sizes: NDArray[np.int64]  # (n,)
    hashes: NDArray[np.uint8]  # (n, TEXT_HASH_BYTES)


def look(judged: Iterable[Judgement], signatures: IO[bytes]) -> Looked:
    """Put the judgements in a row; the signatures, which are large, go to a file."""
    verdicts, sizes, hashes = [], [], []
    for judgement in judged:
        verdicts.append(judgement.verdicts)
        sizes.append(judgement.sizes)
        hashes.append(judgement.hashes)
        signatures.write(judgement.signatures.tobytes())
    signatures.flush()
    return Looked(
        verdicts=np.concatenate(verdicts),
        sizes=np.concatenate(sizes),
        hashes=np.concatenate(hashes),
    )


def repeated(hashes: NDArray[np.uint8], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the documents `among` all have the hash of an earlier one of them.

    By sorting, in about 50 bytes for each: a set of Python's would take 130.
    """
    documents = np.flatnonzero(among)
    left, right = hashes.view(np.uint64)[documents].T  # two halves of 8 bytes
    order = np.lexsort((right, left))  # equal ones side by side, in the order they came
    before, after = order[:-1], order[1:]
    same = (left[before] == left[after]) & (right[before] == right[after])
    answer = np.zeros(len(among), dtype=np.bool_)
    answer[documents[after[same]]] = True
    return answer


def write_part(
    file: Path, verdicts: NDArray[np.uint16], hashes: NDArray[np.uint8], reasons: list[str]
) -> None:
    """Write the verdicts on one part of the corpus, a row for a row."""
    kept = verdicts == KEPT
    numbers = from_numbers(np.maximum(verdicts, 1) - 1, valid=~kept)
    words = from_texts([reason.encode() for reason in reasons]).cast(pa.string())
    dropped = pa.DictionaryArray.from_arrays(numbers, words)
    columns = {"dropped": dropped.cast(pa.string()), "text_hash": hash_column(hashes.tobytes())}
    pq.write_table(pa.table(columns), file, compression="zstd")


def counted(
    verdicts: NDArray[np.uint16], sizes: NDArray[np.int64], reasons: list[str]
) -> dict[str, Any]:
    """How many documents there are, how much is kept, and how many are dropped by each reason."""
    counts = np.bincount(verdicts, minlength=len(reasons) + 1).tolist()
    return {
        "documents": len(verdicts),
        "kept": counts[KEPT],
        "bytes": int(sizes[verdicts == KEPT].sum()),
        "dropped": {name: n for name, n in zip(reasons, counts[1:], strict=True) if n},
    }


def compared(
    params: CleanParams, seen: Looked, signatures: IO[bytes], reasons: list[str]
) -> NDArray[np.uint16]:
    """(n,) the verdicts once each document is compared with those before it."""
    verdicts = seen.verdicts.copy()
    if params.deduplicate:
        found = repeated(seen.hashes, verdicts == KEPT)
        verdicts[found] = reasons.index("duplicate") + 1
    if params.near_duplicates is not None:
        shape = (len(verdicts), MINIMA)
        signed = np.memmap(signatures, dtype=np.uint32, mode="r", shape=shape)
        found = near_duplicates(signed, params.near_duplicates, verdicts == KEPT)
        verdicts[found] = reasons.index("near duplicate") + 1
    return verdicts


def write_parts(
    parts: list[dict[str, Any]], seen: Looked, reasons: list[str], folder: Path
) -> list[dict[str, Any]]:
    """Write the verdicts on each part; their descriptions."""
    assert sum(part["documents"] for part in parts) == len(seen.verdicts)
    described = []
    first = 0
    for part in parts:
        rows = slice(first, first + part["documents"])
        first = rows.stop
        write_part(folder / part["name"], seen.verdicts[rows], seen.hashes[rows], reasons)
        described.append(
            {
                "name": part["name"],
                "corpus": part["corpus"],
                **counted(seen.verdicts[rows], seen.sizes[rows], reasons),
                "sha256": file_sha256(folder / part["name"]),
            }
        )
    return described


def run(
    params: CleanParams, corpus: Path, out: Path, *, filters: Path = FILTERS, workers: int = 1
) -> None:
    """Write the verdicts and their manifest.

    Raises ValueError when nothing is kept, or at a corpus of another version.
    """
    source = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    if source["version"] != VERSION:
        raise ValueError(
            f"{corpus} has version {source['version']}, not {VERSION}; run `dvc repro download`"
        )
    rules = Rules.of(params, filters)
    reasons = [*rules.reasons, "duplicate", "near duplicate"]
    with atomic_dir(out) as folder, TemporaryFile(dir=folder) as signatures:
        parts = [corpus / part["name"] for part in source["files"]]
        seen = look(judgements(rules, parts, workers), signatures)
        seen = replace(seen, verdicts=compared(params, seen, signatures, reasons))
        totals = counted(seen.verdicts, seen.sizes, reasons)
        if not totals["kept"]:
            raise ValueError(
                f"`clean` would drop every document ({in_words(totals['dropped'])}); "
                "loosen clean.min_bytes, clean.max_bytes or clean.filters"
            )
        manifest = {
            "version": 1,
            "clean": params.model_dump(),
            "filters": {name: file_sha256(filters / f"{name}.py") for name in params.filters},
            "corpus_manifest_sha256": file_sha256(corpus / "manifest.json"),
            **totals,
            "files": write_parts(source["files"], seen, reasons, folder),
        }
        write_json(folder / "manifest.json", manifest)
    print(f"clean: {totals['kept']:,} of {totals['documents']:,} documents kept", end="")
    print(f"; {in_words(totals['dropped'])} dropped" if totals["dropped"] else "")


def run_stage(settings: Settings) -> None:
    """`python -m stages clean`."""
    run(load_section("clean", CleanParams), CORPUS, OUT, workers=settings.worker_count)
