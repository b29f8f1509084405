"""The tokens folder for the stage that reads it: documents in order, a group at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanogpt.ahead import read_ahead
from stages.arrow import to_numbers
from stages.texts.text_hash import TEXT_HASH_BYTES, Hashes, column_hashes


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Some documents, as they stand one after the other in the shards."""

    ids: Sequence[memoryview]  # of each, without the separator, as bytes
    separator: np.unsignedinteger
    n_bytes: NDArray[np.int64]  # (documents,) of text
    lengths: NDArray[np.int64]  # (documents,) with the separator
    rows: slice  # places among all documents, of the group they are from

    def where(self, chosen: NDArray[np.bool_]) -> "Documents":
        """Of a whole group those that are chosen, by an array over all documents."""
        own = chosen[self.rows]
        return Documents(
            ids=list(compress(self.ids, own.tolist())),
            separator=self.separator,
            n_bytes=self.n_bytes[own],
            lengths=self.lengths[own],
            rows=self.rows,
        )

    def tokens(self) -> NDArray[np.unsignedinteger]:
        """(sum of lengths,) each document followed by the separator."""
        content = self.separator.tobytes().join([*self.ids, b""])  # np.insert takes twice as long
        return np.frombuffer(content, self.separator.dtype)


def batches(file: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Some columns of a file of tokens, as many rows at a time as were written at a time."""
    with pa.OSFile(str(file)) as source:  # to map so much and let go of it again takes longer
        fields = pa.ipc.open_file(source).schema
        chosen = sorted(fields.get_field_index(column) for column in columns)
        options = pa.ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
        reader = pa.ipc.open_file(source, options=options)
        yield from read_ahead(reader.get_batch, range(reader.num_record_batches), ahead=1)


@dataclass(frozen=True, kw_only=True)
class TokenizedPart:
    """One file of tokens, all from one corpus."""

    file: Path
    corpus: str
    rows: slice  # its documents' places among all


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """A tokens folder."""

    folder: Path
    manifest: dict[str, Any]
    parts: list[TokenizedPart]

    @classmethod
    def open(cls, folder: Path) -> "Tokenized":
        """Read the manifest."""
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        parts, first = [], 0
        for file in manifest["files"]:
            rows = slice(first, first := first + file["documents"])
            path = folder / file["name"]
            parts.append(TokenizedPart(file=path, corpus=file["corpus"], rows=rows))
        return cls(folder=folder, manifest=manifest, parts=parts)

    @property
    def n_documents(self) -> int:
        """All documents."""
        return sum(file["documents"] for file in self.manifest["files"])

    @property
    def separator(self) -> int:
        """The id that ends every document, after all others."""
        n_vocab: int = self.manifest["n_vocab"]
        return n_vocab - 1

    def text_hashes(self) -> Hashes:
        """(documents, 16) the hash of each text."""
        hashes = np.empty((self.n_documents, TEXT_HASH_BYTES), np.uint8)
        for part in self.parts:
            table = pa.Table.from_batches(batches(part.file, "text_hash"))
            hashes[part.rows] = column_hashes(table.column(0))
        return hashes

    def documents(self, part: TokenizedPart) -> Iterator[Documents]:
        """A part's documents, as many at a time as were written at a time.

        Raises ValueError at an id beyond the vocabulary.
        """
        first = part.rows.start
        for batch in batches(part.file, "tokens", "n_bytes"):
            rows = slice(first, first := first + batch.num_rows)
            yield self.separated(batch, rows)

    def separated(self, batch: pa.RecordBatch, rows: slice) -> Documents:
        """Rows (tokens, n_bytes) as documents."""
        lists = batch.column("tokens")
        offsets = to_numbers(lists.offsets)
        ids = to_numbers(lists.values)[offsets[0] : offsets[-1]]
        if len(ids) and ids.max() >= self.separator:
            raise ValueError(
                f"{self.folder} holds id {ids.max()}, the vocabulary ends at {self.separator}"
            )
        ids = ids.astype(self.manifest["dtype"], copy=False)
        content, places = ids.view(np.uint8).data, (offsets - offsets[0]) * ids.itemsize
        return Documents(
            ids=[content[start:stop] for start, stop in pairwise(places.tolist())],
            separator=ids.dtype.type(self.separator),
            n_bytes=to_numbers(batch.column("n_bytes")),
            lengths=np.diff(offsets).astype(np.int64) + 1,
            rows=rows,
        )
