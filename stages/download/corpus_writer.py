"""The corpus on disk: parquet parts whose bytes are a function of the documents in them.

Where one part ends and the next begins is decided by the documents themselves and not by counting
from the start (content-defined chunking), so that a document more or less changes the part it is in
and leaves most others, and what later stages made of them, as they were.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanogpt.files import flushed_sha256
from stages.artifacts.corpus import SCHEMA
from stages.download.readers import Document
from stages.lib.arrow import from_numbers, from_texts
from stages.lib.text_hash import hash_column, text_hash

PART_BYTES = 32 << 20  # of text in a part, about: few enough files, small enough pieces of work
GROUP_BYTES = 4 << 20  # of text written, and read again, at a time
HEAD = 1024  # characters of a document that decide, with its length, whether a part ends there


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of the corpus; `corpus` names which of the corpora mixed it is from."""

    name: str
    corpus: str
    documents: int
    bytes: int  # of UTF-8 text
    sha256: str  # of the file


def part_name(number: int) -> str:
    """The file name of a part."""
    return f"part-{number:05d}.parquet"


def prefixed(documents: Iterable[Document], prefix: str) -> Iterable[Document]:
    """The same documents with ids that begin with `prefix`."""
    if not prefix:
        return documents
    return (document._replace(id=prefix + document.id) for document in documents)


def write_parts(
    documents: Iterable[Document], folder: Path, corpus: str, first: int, skipped: Counter[str]
) -> Iterator[Part]:
    """Write documents as parts from number `first` on, each yielded when its file is whole.

    A part is whole before the next document is asked for. Documents without text, and those that
    no text file could hold, with a NUL character or half of a surrogate pair, are counted in
    `skipped` and left out.
    """
    part = PartWriter(folder / part_name(first))
    for document in documents:
        if not document.text or document.text.isspace():
            skipped["empty document"] += 1
            continue
        if "\0" in document.text:
            skipped["document with a NUL character"] += 1
            continue
        try:
            n_bytes = part.add(document)
        except UnicodeEncodeError:
            skipped["document with half of a surrogate pair"] += 1
            continue
        if ends_part(document.text, n_bytes, part.bytes):
            yield part.close(corpus)
            first += 1
            part = PartWriter(folder / part_name(first))
    if part.documents:
        yield part.close(corpus)


def ends_part(name: str, n_bytes: int, part_bytes: int) -> bool:
    """Whether a part that holds `part_bytes` ends with this document or file, of `n_bytes`.

    Never before three quarters of PART_BYTES and always from twice PART_BYTES on; between them by
    a hash of its length and `name`, a document's text or a file's name, of which the beginning
    counts; once in a quarter of PART_BYTES on average.
    """
    if part_bytes < PART_BYTES * 3 // 4:
        return False
    head = hashlib.sha256(f"{n_bytes} {name[:HEAD]}".encode("utf-8", "backslashreplace")).digest()
    draw = int.from_bytes(head[:7], "big") / 2**56
    return part_bytes >= 2 * PART_BYTES or draw < n_bytes / (PART_BYTES / 4)


class PartWriter:
    """One parquet file, written in groups of about GROUP_BYTES.

    A group is compressed on a thread of its own while the next one is collected.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.thread = ThreadPoolExecutor(1)
        self.under_way: Future[None] | None = None
        self.documents = self.bytes = 0
        self.group: list[tuple[bytes, bytes, bytes]] = []
        self.group_bytes = 0
        self.writer: Any = None

    def add(self, document: Document) -> int:
        """Take one document; its bytes. Raises UnicodeEncodeError where it has none in UTF-8."""
        content = document.text.encode()
        n_bytes = len(content)
        self.group.append((document.id.encode(), content, document.source.encode()))
        self.group_bytes += n_bytes
        self.bytes += n_bytes
        self.documents += 1
        if self.group_bytes >= GROUP_BYTES:
            self.write_group()
        return n_bytes

    def write_group(self) -> None:
        """Write the waiting documents."""
        ids, contents, sources = zip(*self.group, strict=True)
        columns = [
            from_texts(ids).cast(pa.string()),
            from_texts(contents),
            from_texts(sources).cast(pa.string()),
            from_numbers(np.fromiter(map(len, contents), np.int64, len(ids))),
            hash_column(b"".join(map(text_hash, contents))),
        ]
        table = pa.table(columns, schema=SCHEMA)
        if self.writer is None:
            # lz4 takes 1.4 times the room of zstd, and two thirds of the time to write and half of
            # that to read, which every stage does. A dictionary or the least and greatest of long
            # texts would cost time and say nothing.
            self.writer = pq.ParquetWriter(
                self.file,
                SCHEMA,
                compression="lz4",
                use_dictionary=["source"],
                write_statistics=False,
            )
        self.wait()
        self.under_way = self.thread.submit(self.writer.write_table, table)
        self.group, self.group_bytes = [], 0

    def wait(self) -> None:
        """Wait for the group that is being written. Raises OSError when it could not be."""
        if self.under_way:
            self.under_way.result()

    def close(self, corpus: str) -> Part:
        """Finish the file."""
        if self.group:
            self.write_group()
        self.wait()
        self.thread.shutdown()
        self.writer.close()
        return Part(
            name=self.file.name,
            corpus=corpus,
            documents=self.documents,
            bytes=self.bytes,
            sha256=flushed_sha256(self.file),
        )
