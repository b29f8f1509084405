"""Reading of the tokens folder: documents in order, some at a time."""

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
    """Some consecutive documents of a part."""

    rows: slice  # their positions among all documents
    tokens: Sequence[memoryview]  # of each, as bytes, without the end-of-text token

    def select(self, mask: NDArray[np.bool_]) -> list[memoryview]:
        """Return the tokens of those documents that a mask over all documents selects."""
        return list(compress(self.tokens, mask[self.rows].tolist()))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of all documents, (documents,) each."""

    tokens: NDArray[np.int64]  # with the end-of-text token
    bytes: NDArray[np.int64]  # of text


def read_batches(file: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file of tokens, in the batches it was written in."""
    with pa.OSFile(str(file)) as source:  # mapping and unmapping it takes longer
        fields = pa.ipc.open_file(source).schema
        indices = sorted(fields.get_field_index(column) for column in columns)
        options = pa.ipc.IpcReadOptions(included_fields=indices, use_threads=False)
        reader = pa.ipc.open_file(source, options=options)
        yield from prefetch(reader.get_batch, range(reader.num_record_batches), ahead=1)


@dataclass(frozen=True, kw_only=True)
class TokenizedPart:
    """One file of tokens, all from one corpus."""

    file: Path
    corpus: str
    rows: slice  # the positions of its documents among all


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """A tokens folder, opened."""

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
        """Return the number of documents."""
        return sum(file["documents"] for file in self.manifest["files"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the tokens."""
        dtype: np.dtype[Any] = np.dtype(self.manifest["dtype"])
        return dtype

    @property
    def eot_token(self) -> int:
        """Return the id of the end-of-text token, the last of the vocabulary."""
        n_vocab: int = self.manifest["n_vocab"]
        return n_vocab - 1

    def text_hashes(self) -> Hashes:
        """Return the hash of each document's text (documents, TEXT_HASH_BYTES)."""
        hashes = np.empty((self.n_documents, TEXT_HASH_BYTES), np.uint8)
        for part in self.parts:
            table = pa.Table.from_batches(read_batches(part.file, "text_hash"))
            hashes[part.rows] = column_hashes(table.column(0))
        return hashes

    def sizes(self) -> Sizes:
        """Return the sizes of all documents."""
        columns = ("n_tokens", "n_bytes")
        sizes = {name: np.empty(self.n_documents, np.int64) for name in columns}
        for part in self.parts:
            table = pa.Table.from_batches(read_batches(part.file, *columns))
            for name in columns:
                sizes[name][part.rows] = to_numbers(table.column(name))
        return Sizes(tokens=sizes["n_tokens"] + 1, bytes=sizes["n_bytes"])

    def documents(self, part: TokenizedPart) -> Iterator[Documents]:
        """Yield the documents of a part, in the batches they were written in.

        Raises ValueError if a token id is beyond the vocabulary.
        """
        first = part.rows.start
        for batch in read_batches(part.file, "tokens"):
            rows = slice(first, first := first + batch.num_rows)
            yield Documents(rows=rows, tokens=self.as_bytes(batch.column("tokens")))

    def as_bytes(self, lists: pa.LargeListArray) -> list[memoryview]:
        """Return the tokens of each document as bytes, in the type of the manifest."""
        offsets = to_numbers(lists.offsets)
        tokens = to_numbers(lists.values)[offsets[0] : offsets[-1]]
        if len(tokens) and tokens.max() >= self.eot_token:
            raise ValueError(
                f"{self.folder} contains token ID {tokens.max()}, but the vocabulary ends at "
                f"{self.eot_token}"
            )
        tokens = tokens.astype(self.dtype, copy=False)
        content = tokens.view(np.uint8).data
        bounds = ((offsets - offsets[0]) * tokens.itemsize).tolist()
        return [content[start:stop] for start, stop in pairwise(bounds)]

    def concatenate(self, documents: Sequence[memoryview]) -> NDArray[np.unsignedinteger]:
        """Return the tokens of documents as in a stream: an end-of-text token follows each."""
        eot_token = self.dtype.type(self.eot_token).tobytes()
        content = eot_token.join([*documents, b""])  # np.insert takes twice as long
        return np.frombuffer(content, self.dtype)
