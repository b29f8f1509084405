"""What `clean` left of a corpus: its documents in order, without those that were dropped.

The corpus stays as it was fetched. Next to each part of it is a file of verdicts, a row for a row:
why the document was dropped, or null, and the hash of the text that is kept.
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

GROUP_BYTES = 8 << 20  # of text, at most, taken at a time: all that is written at a time, 4 MB


@dataclass(frozen=True, kw_only=True)
class CleanPart:
    """One part of a corpus with the verdicts on it."""

    texts: Path
    verdicts: Path
    corpus: str  # which of the corpora mixed it is from
    form: Form | None

    def groups(self) -> Iterator[pa.RecordBatch]:
        """(id, text, text_hash) of the documents that were kept, about GROUP_BYTES at a time."""
        with pq.ParquetFile(self.texts) as texts:
            verdicts = pq.ParquetFile(self.verdicts).read(["dropped", "text_hash"])
            first = 0
            for number in range(texts.num_row_groups):
                rows = texts.read_row_group(number, columns=["id", "text"])
                judged = verdicts.slice(first, rows.num_rows)
                first += rows.num_rows
                for group in split_by_bytes(kept(rows, judged)):
                    yield group.set_column(1, "text", normalised(group.column("text"), self.form))


def kept(rows: pa.Table, judged: pa.Table) -> pa.Table:
    """(id, text, text_hash) of rows (id, text) whose verdict (dropped, text_hash) is null."""
    table = rows.append_column("text_hash", judged.column("text_hash"))
    dropped = judged.column("dropped")
    return table.filter(dropped.is_null()) if dropped.null_count < len(dropped) else table


def split_by_bytes(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """A table in pieces of about GROUP_BYTES of text; a longer document is a piece of its own."""
    for batch in table.combine_chunks().to_batches():  # one, or of an empty table none
        _, ends = utf8(batch.column("text"))
        first = 0
        while first < batch.num_rows:
            limit = ends[first] + GROUP_BYTES
            after = max(first + 1, int(np.searchsorted(ends, limit, side="right")) - 1)
            yield batch.slice(first, after - first)
            first = after


def byte_lengths(texts: pa.LargeStringArray) -> NDArray[np.int64]:
    """How many bytes of UTF-8 each text has."""
    return np.diff(utf8(texts)[1])


def normalised(texts: pa.Array, form: Form | None) -> pa.Array:
    """Texts in a normal form (Unicode Standard Annex 15), or as they are where it is null."""
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
        """Read the manifest of the verdicts."""
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return cls(corpus=corpus, folder=folder, manifest=manifest)

    @property
    def parts(self) -> list[CleanPart]:
        """The parts, in order; one of which nothing was kept is none."""
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
        """Every text that was kept, in order."""
        for part in self.parts:
            for group in part.groups():
                yield from group.column("text").to_pylist()

    def text_hashes(self) -> Iterator[bytes]:
        """The hash of every text that was kept, in order."""
        for part in self.parts:
            table = pq.ParquetFile(part.verdicts).read(["dropped", "text_hash"])
            kept = table.filter(table.column("dropped").is_null())
            yield from kept.column("text_hash").to_pylist()
