"""Stage `clean`: choose the documents worth training on, and record why the others are dropped.

No text is copied: the corpus stays as it was downloaded, a verdict is written for each of its
documents, and the manifest counts the dropped documents by reason. Of duplicates the first is kept.
The output is the same, byte for byte, for any number of workers.
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
from stages.artifacts.clean import CLEAN
from stages.artifacts.corpus import CORPUS, VERSION
from stages.clean.near_duplicates import NUM_PERM, near_duplicates
from stages.clean.params import FILTERS, CleanParams
from stages.clean.rules import KEPT, GroupResult, Rules, check_documents
from stages.lib.arrow import from_numbers, from_texts
from stages.lib.params import load_section
from stages.lib.reasons import in_words
from stages.lib.text_hash import hash_column
from stages.runtime.settings import Settings


@dataclass(frozen=True, kw_only=True)
class CorpusResult:
    """What the rules found for all n documents of a corpus; 26 bytes each."""

    verdicts: NDArray[np.uint16]  # (n,)
    sizes: NDArray[np.int64]  # (n,)
    hashes: NDArray[np.uint8]  # (n, TEXT_HASH_BYTES)


def collect(results: Iterable[GroupResult], signatures: IO[bytes]) -> CorpusResult:
    """Concatenate the results in memory, and write the signatures, which are large, to a file."""
    verdicts, sizes, hashes = [], [], []
    for result in results:
        verdicts.append(result.verdicts)
        sizes.append(result.sizes)
        hashes.append(result.hashes)
        signatures.write(result.signatures.tobytes())
    signatures.flush()
    return CorpusResult(
        verdicts=np.concatenate(verdicts),
        sizes=np.concatenate(sizes),
        hashes=np.concatenate(hashes),
    )


def exact_duplicates(hashes: NDArray[np.uint8], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask (n,) of the candidates whose hash is that of an earlier candidate.

    Sorting takes about 50 bytes per document; a Python set would take 130.
    """
    documents = np.flatnonzero(candidates)
    left, right = hashes.view(np.uint64)[documents].T  # two halves of 8 bytes
    order = np.lexsort((right, left))  # stable: equal hashes stay in the corpus's order
    before, after = order[:-1], order[1:]
    same = (left[before] == left[after]) & (right[before] == right[after])
    mask = np.zeros(len(candidates), dtype=np.bool_)
    mask[documents[after[same]]] = True
    return mask


def write_part(
    file: Path, verdicts: NDArray[np.uint16], hashes: NDArray[np.uint8], reasons: list[str]
) -> None:
    """Write the verdicts on one part of the corpus, one row per document."""
    kept = verdicts == KEPT
    indices = from_numbers(np.maximum(verdicts, 1) - 1, valid=~kept)
    names = from_texts([reason.encode() for reason in reasons]).cast(pa.string())
    dropped = pa.DictionaryArray.from_arrays(indices, names)
    columns = {"dropped": dropped.cast(pa.string()), "text_hash": hash_column(hashes.tobytes())}
    pq.write_table(pa.table(columns), file, compression="zstd")


def count_verdicts(
    verdicts: NDArray[np.uint16], sizes: NDArray[np.int64], reasons: list[str]
) -> dict[str, Any]:
    """Count the documents, what is kept of them, and the dropped ones by reason."""
    counts = np.bincount(verdicts, minlength=len(reasons) + 1).tolist()
    return {
        "documents": len(verdicts),
        "kept": counts[KEPT],
        "bytes": int(sizes[verdicts == KEPT].sum()),
        "dropped": {name: n for name, n in zip(reasons, counts[1:], strict=True) if n},
    }


def drop_duplicates(
    params: CleanParams, result: CorpusResult, signatures: IO[bytes], reasons: list[str]
) -> NDArray[np.uint16]:
    """Return the verdicts (n,) with exact and near duplicates of earlier documents dropped."""
    verdicts = result.verdicts.copy()
    if params.deduplicate:
        duplicates = exact_duplicates(result.hashes, verdicts == KEPT)
        verdicts[duplicates] = reasons.index("duplicate") + 1
    if params.near_duplicates is not None:
        shape = (len(verdicts), NUM_PERM)
        mapped = np.memmap(signatures, dtype=np.uint32, mode="r", shape=shape)
        duplicates = near_duplicates(mapped, params.near_duplicates, verdicts == KEPT)
        verdicts[duplicates] = reasons.index("near duplicate") + 1
    return verdicts


def write_parts(
    parts: list[dict[str, Any]], result: CorpusResult, reasons: list[str], folder: Path
) -> list[dict[str, Any]]:
    """Write the verdicts on each part and return the parts' entries in the manifest."""
    assert sum(part["documents"] for part in parts) == len(result.verdicts)
    entries = []
    first = 0
    for part in parts:
        rows = slice(first, first + part["documents"])
        first = rows.stop
        write_part(folder / part["name"], result.verdicts[rows], result.hashes[rows], reasons)
        entries.append(
            {
                "name": part["name"],
                "corpus": part["corpus"],
                **count_verdicts(result.verdicts[rows], result.sizes[rows], reasons),
                "sha256": file_sha256(folder / part["name"]),
            }
        )
    return entries


def run(
    params: CleanParams, corpus: Path, out: Path, *, filters: Path = FILTERS, workers: int = 1
) -> None:
    """Write the verdicts and their manifest.

    Raises ValueError if no document is kept or the corpus has another version.
    """
    source = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    if source["version"] != VERSION:
        raise ValueError(
            f"{corpus} has version {source['version']}, not {VERSION}; run `dvc repro download`"
        )
    rules = Rules.from_params(params, filters)
    reasons = [*rules.reasons, "duplicate", "near duplicate"]
    with atomic_dir(out) as folder, TemporaryFile(dir=folder) as signatures:
        parts = [corpus / part["name"] for part in source["files"]]
        result = collect(check_documents(rules, parts, workers), signatures)
        result = replace(result, verdicts=drop_duplicates(params, result, signatures, reasons))
        totals = count_verdicts(result.verdicts, result.sizes, reasons)
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
            "files": write_parts(source["files"], result, reasons, folder),
        }
        write_json(folder / "manifest.json", manifest)
    print(f"clean: {totals['kept']:,} of {totals['documents']:,} documents kept", end="")
    print(f"; {in_words(totals['dropped'])} dropped" if totals["dropped"] else "")


def run_stage(settings: Settings) -> None:
    """Run `python -m stages clean`."""
    run(load_section("clean", CleanParams), CORPUS, CLEAN, workers=settings.worker_count)
