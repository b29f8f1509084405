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

from nanogpt.data.prefetch import prefetch
from stages.lib.arrow import to_numbers
from stages.lib.text_hash import TEXT_HASH_BYTES, Hashes, column_hashes


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Some neighbouring documents of a part."""

    rows: slice  # their places among all
    ids: Sequence[memoryview]  # of each, without the separator, as bytes

    def chosen(self, which: NDArray[np.bool_]) -> list[memoryview]:
        """The ids of those that are chosen, by an array over all documents."""
        return list(compress(self.ids, which[self.rows].tolist()))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long all documents are; (documents,) each."""

    tokens: NDArray[np.int64]  # with the separator
    bytes: NDArray[np.int64]  # of text


def batches(file: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Some columns of a file of tokens, as many rows at a time as were written at a time."""
    with pa.OSFile(str(file)) as source:  # to map so much and let go of it again takes longer
        fields = pa.ipc.open_file(source).schema
        chosen = sorted(fields.get_field_index(column) for column in columns)
        options = pa.ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
        reader = pa.ipc.open_file(source, options=options)
        yield from prefetch(reader.get_batch, range(reader.num_record_batches), ahead=1)


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
    def dtype(self) -> np.dtype[Any]:
        """The type of the ids in the shards."""
        dtype: np.dtype[Any] = np.dtype(self.manifest["dtype"])
        return dtype

    @property
    def eot_token(self) -> int:
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

    def sizes(self) -> Sizes:
        """The lengths of all documents."""
        columns = ("n_tokens", "n_bytes")
        found = {name: np.empty(self.n_documents, np.int64) for name in columns}
        for part in self.parts:
            table = pa.Table.from_batches(batches(part.file, *columns))
            for name in columns:
                found[name][part.rows] = to_numbers(table.column(name))
        return Sizes(tokens=found["n_tokens"] + 1, bytes=found["n_bytes"])

    def documents(self, part: TokenizedPart) -> Iterator[Documents]:
        """A part's documents, as many at a time as were written at a time.

        Raises ValueError at an id beyond the vocabulary.
        """
        first = part.rows.start
        for batch in batches(part.file, "tokens"):
            rows = slice(first, first := first + batch.num_rows)
            yield Documents(rows=rows, ids=self.ids(batch.column("tokens")))

    def ids(self, lists: pa.LargeListArray) -> list[memoryview]:
        """The ids of each document as bytes, in the type of the shards."""
        offsets = to_numbers(lists.offsets)
        ids = to_numbers(lists.values)[offsets[0] : offsets[-1]]
        if len(ids) and ids.max() >= self.eot_token:
            raise ValueError(
                f"{self.folder} holds id {ids.max()}, the vocabulary ends at {self.eot_token}"
            )
        ids = ids.astype(self.dtype, copy=False)
        content, places = ids.view(np.uint8).data, (offsets - offsets[0]) * ids.itemsize
        return [content[start:stop] for start, stop in pairwise(places.tolist())]

    def separated(self, ids: Sequence[memoryview]) -> NDArray[np.unsignedinteger]:
        """The tokens of documents as they are in a stream: after each the separator."""
        eot_token = self.dtype.type(self.eot_token).tobytes()
        content = eot_token.join([*ids, b""])  # np.insert takes twice as long
        return np.frombuffer(content, self.dtype)
