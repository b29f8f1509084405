"""The documents of a corpus that `clean` kept, in order.

The corpus itself is not changed. For each of its parts there is a file of verdicts, one row per
document: why it was dropped, or null, and the hash of the text that is kept.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.lib.arrow import from_texts, utf8

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]

CLEAN = Path("data/clean")
GROUP_BYTES = 8 << 20  # of text, at most, read at a time; 4 MB are written at a time


@dataclass(frozen=True, kw_only=True)
class CleanPart:
    """One part of a corpus with the verdicts on it."""

    texts: Path
    verdicts: Path
    corpus: str  # the name of the corpus, where several are mixed
    form: Form | None

    def groups(self) -> Iterator[pa.RecordBatch]:
        """Yield (id, text, text_hash) of the kept documents, about GROUP_BYTES at a time."""
        with pq.ParquetFile(self.texts) as texts:
            verdicts = pq.ParquetFile(self.verdicts).read(["dropped", "text_hash"])
            first = 0
            for number in range(texts.num_row_groups):
                rows = texts.read_row_group(number, columns=["id", "text"])
                row_verdicts = verdicts.slice(first, rows.num_rows)
                first += rows.num_rows
                for group in split_by_bytes(drop_rows(rows, row_verdicts)):
                    yield group.set_column(1, "text", normalized(group.column("text"), self.form))


def drop_rows(rows: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return (id, text, text_hash) of the rows (id, text) that no verdict drops."""
    table = rows.append_column("text_hash", verdicts.column("text_hash"))
    dropped = verdicts.column("dropped")
    return table.filter(dropped.is_null()) if dropped.null_count < len(dropped) else table


def split_by_bytes(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield a table in batches of up to GROUP_BYTES of text; a longer document is alone in one."""
    for batch in table.combine_chunks().to_batches():  # one batch, or none if the table is empty
        _, offsets = utf8(batch.column("text"))
        first = 0
        while first < batch.num_rows:
            limit = offsets[first] + GROUP_BYTES
            after = max(first + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
            yield batch.slice(first, after - first)
            first = after


def byte_lengths(texts: pa.LargeStringArray) -> NDArray[np.int64]:
    """Return the number of bytes of each text in UTF-8 (texts,)."""
    return np.diff(utf8(texts)[1])


def normalized(texts: pa.Array, form: Form | None) -> pa.Array:
    """Return texts in a normal form (Unicode Standard Annex 15), unchanged if it is None."""
    if form is None:
        return texts
    return from_texts([unicodedata.normalize(form, text).encode() for text in texts.to_pylist()])


@dataclass(frozen=True, kw_only=True)
class CleanCorpus:
    """A corpus and the verdicts on it."""

    corpus: Path
    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, corpus: Path, folder: Path) -> "CleanCorpus":
        """Read the manifest of the verdicts in `folder` on the corpus in `corpus`."""
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return cls(corpus=corpus, folder=folder, manifest=manifest)

    @property
    def parts(self) -> list[CleanPart]:
        """Return the parts in order, without those of which no document was kept."""
        return [
            CleanPart(
                texts=self.corpus / file["name"],
                verdicts=self.folder / file["name"],
                corpus=file["corpus"],
                form=self.manifest["clean"]["unicode"],
            )
            for file in self.manifest["files"]
            if file["kept"]
        ]

    def texts(self) -> Iterator[str]:
        """Yield the text of each kept document, in order."""
        for part in self.parts:
            for group in part.groups():
                yield from group.column("text").to_pylist()

    def text_hashes(self) -> Iterator[bytes]:
        """Yield the hash of the text of each kept document, in order."""
        for part in self.parts:
            table = pq.ParquetFile(part.verdicts).read(["dropped", "text_hash"])
            kept = table.filter(table.column("dropped").is_null())
            yield from kept.column("text_hash").to_pylist()
