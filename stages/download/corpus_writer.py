"""Writer of the corpus: Parquet parts whose bytes are a function of the documents in them.

The documents themselves decide where a part ends (content-defined chunking), so that adding or
removing a document changes its own part and leaves most others, and the outputs that later stages
made of them, as they were.
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

PART_BYTES = 32 << 20  # target of text per part: few enough files, small enough units of work
GROUP_BYTES = 4 << 20  # target of text per row group, which is written and read in one go
HEAD = 1024  # leading characters of a document that decide, with its size, if a part ends there


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of the corpus; `corpus` names the corpus of a mixture that it belongs to."""

    name: str
    corpus: str
    documents: int
    bytes: int  # of UTF-8 text
    sha256: str  # of the file


def part_name(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:05d}.parquet"


def with_prefix(documents: Iterable[Document], prefix: str) -> Iterable[Document]:
    """Return the documents with `prefix` before their ids."""
    if not prefix:
        return documents
    return (document._replace(id=prefix + document.id) for document in documents)


def write_parts(
    documents: Iterable[Document], folder: Path, corpus: str, first: int, skipped: Counter[str]
) -> Iterator[Part]:
    """Write documents as parts from number `first` on, and yield each part once it is on the disk.

    A part is complete before the next document is requested. Empty documents, and those with a NUL
    character or half of a surrogate pair, which no text file could hold, are counted in `skipped`
    and left out.
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
    """Return True if a part that now holds `part_bytes` ends after this document or file.

    `name` is the text of the document or the name of the file, and `n_bytes` its size. No part ends
    before three quarters of PART_BYTES, and every part ends at twice PART_BYTES. In between, a hash
    of the size and the first HEAD characters of `name` decides, on average once in a quarter of
    PART_BYTES.
    """
    if part_bytes < PART_BYTES * 3 // 4:
        return False
    head = hashlib.sha256(f"{n_bytes} {name[:HEAD]}".encode("utf-8", "backslashreplace")).digest()
    draw = int.from_bytes(head[:7], "big") / 2**56
    return part_bytes >= 2 * PART_BYTES or draw < n_bytes / (PART_BYTES / 4)


class PartWriter:
    """Writer of one Parquet file in row groups of about GROUP_BYTES.

    A background thread compresses a row group while the next one is collected.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None
        self.documents = self.bytes = 0
        self.group: list[tuple[bytes, bytes, bytes]] = []
        self.group_bytes = 0
        self.writer: Any = None

    def add(self, document: Document) -> int:
        """Add a document and return its bytes. Raises UnicodeEncodeError if UTF-8 cannot hold it.

        A document that raises is not added.
        """
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
        """Start writing the collected documents as a row group."""
        document_ids, contents, sources = zip(*self.group, strict=True)
        columns = [
            from_texts(document_ids).cast(pa.string()),
            from_texts(contents),
            from_texts(sources).cast(pa.string()),
            from_numbers(np.fromiter(map(len, contents), np.int64, len(document_ids))),
            hash_column(b"".join(map(text_hash, contents))),
        ]
        table = pa.table(columns, schema=SCHEMA)
        if self.writer is None:
            # lz4 takes 1.4 times the space of zstd, two thirds of its time to write and half of its
            # time to read, which every stage does. A dictionary and minimum and maximum statistics
            # of long texts would cost time and be of no use.
            self.writer = pq.ParquetWriter(
                self.file,
                SCHEMA,
                compression="lz4",
                use_dictionary=["source"],
                write_statistics=False,
            )
        self.wait()
        self.pending = self.thread.submit(self.writer.write_table, table)
        self.group, self.group_bytes = [], 0

    def wait(self) -> None:
        """Wait for the row group that is being written. Raises OSError if writing fails."""
        if self.pending:
            self.pending.result()

    def close(self, corpus: str) -> Part:
        """Finish the file and return its entry in the manifest."""
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
