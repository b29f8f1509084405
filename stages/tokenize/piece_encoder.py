"""Texts of a corpus to ids, each distinct piece encoded once (docs/decisions/0025).

The more text at once, the fewer of its pieces are new, and the cheaper it is to encode.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib.arrow import utf8
from stages.tokenizers.ids import Ids
from stages.tokenizers.pretokenize import Positions
from stages.tokenizers.tokenizer import BpeTokenizer


@dataclass(frozen=True)
class Window:
    """Some bytes of a group of texts as pieces."""

    pieces: pa.DictionaryArray
    texts: slice  # those that end in it, among the ends of the group's
    ends: Positions  # after how many of its pieces each of them ends


class PieceEncoder:
    """The encoding of many texts at once."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self.splitter, self.merger = tokenizer.splitter, tokenizer.merger
        self.dtype = self.merger.dtype

    def encode(self, groups: Sequence[pa.LargeStringArray]) -> Iterator[Ids]:
        """The ids that tiktoken gives the texts of each group."""
        cuts = [list(self.windows(texts)) for texts in groups]
        pieces = [window.pieces for cut in cuts for window in cut]
        kind = pa.dictionary(pa.int32(), pa.large_binary())
        unified = iter(pa.chunked_array(pieces, kind).unify_dictionaries().chunks)
        ids: pa.LargeBinaryArray | None = None  # of each distinct piece
        for texts, cut in zip(groups, cuts, strict=True):
            values, ends = [np.empty(0, self.dtype)], np.zeros(len(texts) + 1, np.int64)
            tokens = 0
            for window, numbered in zip(cut, unified, strict=False):  # takes no more than cut has
                ids = self.merged(numbered.dictionary) if ids is None else ids
                _, offsets, content = ids.take(numbered.indices).buffers()
                before = np.frombuffer(offsets, np.int64)[window.ends] // self.dtype.itemsize
                ends[window.texts] = tokens + before
                values.append(np.frombuffer(content, self.dtype))
                tokens += len(values[-1])
            yield Ids(np.concatenate(values), ends)

    def windows(self, texts: pa.LargeStringArray) -> Iterator[Window]:
        """The pieces of some texts, each distinct one of a window numbered."""
        content, ends = utf8(texts)
        first = int(np.searchsorted(ends, 0, side="right"))
        for bounds in self.splitter.windows(content, ends):
            start, stop = int(bounds[0]), int(bounds[-1])
            here = slice(first, int(np.searchsorted(ends, stop, side="right")))
            pieces = strings(bounds - start, content[start:stop]).dictionary_encode()
            yield Window(pieces, here, np.searchsorted(bounds, ends[here]))
            first = here.stop

    def merged(self, pieces: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
        """The ids of each piece, as bytes."""
        ids = self.merger.merged(pieces.to_pylist())
        return strings(ids.ends * self.dtype.itemsize, ids.values)


def strings(bounds: Positions, content: NDArray[np.unsignedinteger]) -> pa.LargeBinaryArray:
    """The bytes of `content` between each two bounds, not copied."""
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
