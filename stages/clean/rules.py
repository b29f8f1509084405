"""Per-document rules: bounds on the size, user-defined filters, text hash, MinHash signature.

Documents are checked one row group at a time and independently of each other, so any number of
processes may share the work. Comparing documents with each other is left to `stage.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.artifacts.clean import Form, byte_lengths, normalized
from stages.clean.filters import load_filter
from stages.clean.near_duplicates import Signatures, minhash_signatures
from stages.clean.params import CleanParams
from stages.lib.arrow import contents, in_one, to_numbers
from stages.lib.text_hash import column_hashes, hash_rows, text_hash
from stages.runtime.pool import in_processes

KEPT, TOO_SHORT, TOO_LONG, FILTERED = 0, 1, 2, 3  # FILTERED + i is the filter with index i


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The part of the section `clean` that can be decided for each document by itself."""

    form: Form | None
    min_bytes: int | None
    max_bytes: int | None
    filters: tuple[str, ...]
    filter_folder: Path
    with_signatures: bool

    @classmethod
    def from_params(cls, params: CleanParams, filter_folder: Path) -> "Rules":
        """Return the per-document rules of the section `clean`."""
        return cls(
            form=params.unicode,
            min_bytes=params.min_bytes,
            max_bytes=params.max_bytes,
            filters=tuple(params.filters),
            filter_folder=filter_folder,
            with_signatures=params.near_duplicates is not None,
        )

    @property
    def reasons(self) -> list[str]:
        """Return the names of the verdicts from TOO_SHORT on, in the order of their numbers."""
        return ["too short", "too long", *(f"filter {name}" for name in self.filters)]

    @property
    def need_text(self) -> bool:
        """Return False if the sizes and hashes stored in the corpus are enough."""
        return bool(self.form or self.filters or self.with_signatures)


@dataclass(frozen=True)
class GroupResult:
    """What the rules found for the n documents of one or more row groups."""

    verdicts: NDArray[np.uint16]  # (n,)
    sizes: NDArray[np.int64]  # (n,) bytes of UTF-8, after Unicode normalization
    hashes: NDArray[np.uint8]  # (n, TEXT_HASH_BYTES)
    signatures: Signatures  # (n, NUM_PERM), or (n, 0) where the rules ask for none


class RuleChecker:
    """The rules with their filters loaded. Raises ValueError if a filter cannot be loaded."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.filters = [load_filter(rules.filter_folder, name) for name in rules.filters]

    def __call__(self, part_and_groups: tuple[Path, Sequence[int]]) -> GroupResult:
        """Check the documents in some row groups of a part."""
        part, groups = part_and_groups
        stored = ["n_bytes", "text_hash"]
        with pq.ParquetFile(part) as file:
            columns = ["id", "text", *stored] if self.rules.need_text else stored
            rows = file.read_row_groups(groups, columns=columns)
        sizes, hashes = to_numbers(rows.column("n_bytes")), column_hashes(rows.column("text_hash"))
        if not self.rules.need_text:
            no_signatures = np.empty((len(sizes), 0), dtype=np.uint32)
            return GroupResult(self.by_size(sizes), sizes, hashes, no_signatures)
        texts = in_one(rows.column("text"))
        if self.rules.form:
            texts = normalized(texts, self.rules.form)
            sizes, hashes = byte_lengths(texts), hash_rows(map(text_hash, contents(texts)))
        verdicts = self.by_filters(self.by_size(sizes), texts, rows)
        return GroupResult(verdicts, sizes, hashes, self.signatures(verdicts, texts))

    def by_size(self, sizes: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return the verdicts (n,) by the sizes (n,) in bytes alone."""
        verdicts = np.full(len(sizes), KEPT, dtype=np.uint16)
        if self.rules.min_bytes is not None:
            verdicts[sizes < self.rules.min_bytes] = TOO_SHORT
        if self.rules.max_bytes is not None:
            verdicts[sizes > self.rules.max_bytes] = TOO_LONG
        return verdicts

    def by_filters(
        self, verdicts: NDArray[np.uint16], texts: pa.Array, rows: pa.Table
    ) -> NDArray[np.uint16]:
        """Return the verdicts (n,) with each kept document passed through the filters.

        A document that several filters would drop is counted for the first of them.
        """
        verdicts = verdicts.copy()
        for number, user_filter in enumerate(self.filters, start=FILTERED):
            for i in np.flatnonzero(verdicts == KEPT).tolist():
                if not user_filter.keeps(texts[i].as_py(), rows.column("id")[i].as_py()):
                    verdicts[i] = number
        return verdicts

    def signatures(self, verdicts: NDArray[np.uint16], texts: pa.Array) -> Signatures:
        """Return the MinHash signatures (n, NUM_PERM); a dropped document counts as empty."""
        if not self.rules.with_signatures:
            return np.empty((len(texts), 0), dtype=np.uint32)
        kept = (texts[i].as_py() if verdicts[i] == KEPT else "" for i in range(len(texts)))
        return minhash_signatures(kept, len(texts))


def check_documents(rules: Rules, parts: list[Path], workers: int) -> Iterator[GroupResult]:
    """Apply the rules to all documents of the parts and yield the results in order.

    Texts are read one row group at a time, by `workers` processes. Rules that need no text are
    applied to a part at a time, in this process.
    """
    checker = RuleChecker(rules)  # here, so that a faulty filter does not show as a broken pool
    parts_and_groups = [(part, range(pq.read_metadata(part).num_row_groups)) for part in parts]
    if not rules.need_text:
        return map(checker, parts_and_groups)
    tasks = [(part, [group]) for part, groups in parts_and_groups for group in groups]
    return in_processes(partial(RuleChecker, rules), tasks, workers)
