"""What a document shows by itself: its size, what filters say of it, its hash and its signature.

A judge examines some groups of rows at a time and knows of no other document, so that any number of
processes may judge at once. What only the whole corpus shows is for the stage `clean` to see.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.artifacts.clean import Form, byte_lengths, normalised
from stages.clean.filters import load_filter
from stages.clean.near_duplicates import Signatures, signatures
from stages.clean.params import CleanParams
from stages.lib.arrow import contents, in_one, to_numbers
from stages.lib.text_hash import column_hashes, hash_rows, text_hash
from stages.runtime.pool import in_processes

KEPT, TOO_SHORT, TOO_LONG, FILTERED = 0, 1, 2, 3  # and FILTERED + 1 by the second filter, ...


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What to check; the part of the section `clean` that concerns a document alone."""

    form: Form | None
    min_bytes: int | None
    max_bytes: int | None
    filters: tuple[str, ...]
    folder: Path  # of the filters
    signatures: bool

    @classmethod
    def of(cls, params: CleanParams, folder: Path) -> "Rules":
        """Return what the section asks of a document alone; `folder` holds the filters."""
        return cls(
            form=params.unicode,
            min_bytes=params.min_bytes,
            max_bytes=params.max_bytes,
            filters=tuple(params.filters),
            folder=folder,
            signatures=params.near_duplicates is not None,
        )

    @property
    def reasons(self) -> list[str]:
        """What each verdict after KEPT is called, in the order of the numbers."""
        return ["too short", "too long", *(f"filter {name}" for name in self.filters)]

    @property
    def read_texts(self) -> bool:
        """Whether texts are looked at, and not just what the corpus says of them."""
        return bool(self.form or self.filters or self.signatures)


@dataclass(frozen=True)
class Judgement:
    """What the n documents of a group showed."""

    verdicts: NDArray[np.uint16]  # (n,)
    sizes: NDArray[np.int64]  # (n,) bytes of the text in its normal form
    hashes: NDArray[np.uint8]  # (n, TEXT_HASH_BYTES)
    signatures: Signatures  # (n, MINIMA), or (n, 0) when none were asked for


class Judge:
    """The rules with their filters loaded. Raises ValueError when one cannot be."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.filters = [load_filter(rules.folder, name) for name in rules.filters]

    def __call__(self, some: tuple[Path, Sequence[int]]) -> Judgement:
        """Judge some of a part's row groups."""
        part, groups = some
        known = ["n_bytes", "text_hash"]
        with pq.ParquetFile(part) as file:
            columns = ["id", "text", *known] if self.rules.read_texts else known
            rows = file.read_row_groups(groups, columns=columns)
        sizes, hashes = to_numbers(rows.column("n_bytes")), column_hashes(rows.column("text_hash"))
        if not self.rules.read_texts:
            nothing = np.empty((len(sizes), 0), dtype=np.uint32)
            return Judgement(self.by_size(sizes), sizes, hashes, nothing)
        texts = in_one(rows.column("text"))
        if self.rules.form:
            texts = normalised(texts, self.rules.form)
            sizes, hashes = byte_lengths(texts), hash_rows(map(text_hash, contents(texts)))
        verdicts = self.by_filters(self.by_size(sizes), texts, rows)
        return Judgement(verdicts, sizes, hashes, self.sign(verdicts, texts))

    def by_size(self, sizes: NDArray[np.int64]) -> NDArray[np.uint16]:
        """(n,) verdicts that the number of bytes alone gives."""
        verdicts = np.full(len(sizes), KEPT, dtype=np.uint16)
        if self.rules.min_bytes is not None:
            verdicts[sizes < self.rules.min_bytes] = TOO_SHORT
        if self.rules.max_bytes is not None:
            verdicts[sizes > self.rules.max_bytes] = TOO_LONG
        return verdicts

    def by_filters(
        self, verdicts: NDArray[np.uint16], texts: pa.Array, rows: pa.Table
    ) -> NDArray[np.uint16]:
        """(n,) the same, and who is dropped by which filter: by the first that drops it."""
        verdicts = verdicts.copy()
        for number, user_filter in enumerate(self.filters, start=FILTERED):
            for i in np.flatnonzero(verdicts == KEPT).tolist():
                if not user_filter.keeps(texts[i].as_py(), rows.column("id")[i].as_py()):
                    verdicts[i] = number
        return verdicts

    def sign(self, verdicts: NDArray[np.uint16], texts: pa.Array) -> Signatures:
        """(n, MINIMA) signatures, of a text that is dropped as of an empty one."""
        if not self.rules.signatures:
            return np.empty((len(texts), 0), dtype=np.uint32)
        kept = (texts[i].as_py() if verdicts[i] == KEPT else "" for i in range(len(texts)))
        return signatures(kept, len(texts))


def judgements(rules: Rules, parts: list[Path], workers: int) -> Iterator[Judgement]:
    """On all documents of the parts, in order; in several processes when there are texts to read.

    A text is read with its row group, what the corpus says of texts with its part.
    """
    judge = Judge(rules)  # a filter that is wrong is reported here, not by a broken pool
    groups = [(part, range(pq.read_metadata(part).num_row_groups)) for part in parts]
    if not rules.read_texts:
        return map(judge, groups)
    one_by_one = [(part, [number]) for part, numbers in groups for number in numbers]
    return in_processes(partial(Judge, rules), one_by_one, workers)
