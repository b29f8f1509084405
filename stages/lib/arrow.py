"""Conversions between NumPy and Arrow arrays through their buffers.

`pa.array` and `Array.to_numpy` do the same, but they import pandas first if it is installed, which
takes 0.3 s in each process of each stage.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def from_numbers(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers (n,) as an Arrow array, null where `valid` (n,) is False."""
    nulls = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    content = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [nulls, content])


def to_numbers(array: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return the numbers of an Arrow array without nulls, not copied if it has a single chunk."""
    dtype = np.dtype(str(array.type))
    if not len(array):  # it may have no chunk at all
        return np.empty(0, dtype)
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def from_texts(contents: Sequence[bytes]) -> pa.LargeStringArray:
    """Return texts, given in UTF-8, as an Arrow array."""
    offsets = np.cumsum([0, *map(len, contents)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(
        len(contents), pa.py_buffer(offsets), pa.py_buffer(b"".join(contents))
    )


def in_one(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """Return a column of texts as one chunk; it is copied only if it has several."""
    column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def utf8(texts: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 of the texts, concatenated, and offsets (1 + texts,).

    The offsets are a zero, then where each text ends. The bytes are not copied.
    """
    _, offset_buffer, content = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(content, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def contents(texts: pa.LargeStringArray) -> Iterator[memoryview]:
    """Return the UTF-8 of each text, without copying it."""
    content, offsets = utf8(texts)
    return (content.data[start:stop] for start, stop in pairwise(offsets.tolist()))
