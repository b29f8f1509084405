"""Numbers and texts into and out of Arrow's arrays, by their memory.

`pa.array` and `Array.to_numpy` do the same, but import pandas first wherever it is installed: 0.3 s
in each process of each stage.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def from_numbers(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """The numbers (n,) as an array, null where `valid` (n,) is false."""
    nulls = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    content = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [nulls, content])


def to_numbers(array: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """The numbers of an array that has no nulls, not copied if it is in one piece."""
    dtype = np.dtype(str(array.type))
    if not len(array):  # it may even be in no piece at all
        return np.empty(0, dtype)
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def from_texts(contents: Sequence[bytes]) -> pa.LargeStringArray:
    """Texts, given in UTF-8."""
    ends = np.cumsum([0, *map(len, contents)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(
        len(contents), pa.py_buffer(ends), pa.py_buffer(b"".join(contents))
    )


def in_one(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """A column in one piece; it is copied only where there are several."""
    column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def utf8(texts: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts' UTF-8, one after the other, and (1 + texts,) a zero, then where each ends.

    The bytes are not copied.
    """
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(content, np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def contents(texts: pa.LargeStringArray) -> Iterator[memoryview]:
    """The UTF-8 of each text, nothing copied."""
    content, ends = utf8(texts)
    return (content.data[start:stop] for start, stop in pairwise(ends.tolist()))
