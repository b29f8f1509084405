"""The hash that identifies a text in the corpus, in verdicts and in token files."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TEXT_HASH_BYTES = 16
TEXT_HASH = pa.binary(TEXT_HASH_BYTES)  # the type of a column of hashes

Hashes = NDArray[np.uint8]  # (documents, TEXT_HASH_BYTES)


def text_hash(text: bytes | memoryview) -> bytes:
    """Return the 16 bytes that identify a text, given in UTF-8."""
    return hashlib.sha256(text).digest()[:TEXT_HASH_BYTES]


def hash_rows(hashes: Iterable[bytes]) -> Hashes:
    """Return text hashes as the rows of one array (documents, TEXT_HASH_BYTES)."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, TEXT_HASH_BYTES)


def hash_column(hashes: bytes) -> pa.FixedSizeBinaryArray:
    """Return concatenated text hashes as the column of a table."""
    n = len(hashes) // TEXT_HASH_BYTES
    return pa.Array.from_buffers(TEXT_HASH, n, [None, pa.py_buffer(hashes)])


def column_hashes(column: pa.ChunkedArray) -> Hashes:
    """Return a column of text hashes as the rows of one array, without Python objects."""
    fixed = column.combine_chunks()
    rows = np.frombuffer(fixed.buffers()[1], np.uint8).reshape(-1, TEXT_HASH_BYTES)
    return rows[fixed.offset : fixed.offset + len(fixed)]
