"""Encoding of many texts at once, each distinct piece only once (docs/decisions/0025).

The more text at once, the fewer of its pieces are new, and the cheaper it is to encode.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib.arrow import utf8
from stages.tokenizers.pretokenize import Positions
from stages.tokenizers.tokenizer import BpeTokenizer
from stages.tokenizers.tokens import RaggedTokens


@dataclass(frozen=True)
class Window:
    """The pieces of some consecutive bytes of a group of texts."""

    pieces: pa.DictionaryArray
    texts: slice  # which of the group's offsets are in this window
    ends: Positions  # how many of the pieces are before each of those offsets


class PieceEncoder:
    """Encodes many texts at once."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self.splitter, self.merger = tokenizer.splitter, tokenizer.merger
        self.dtype = self.merger.dtype

    def encode(self, groups: Sequence[pa.LargeStringArray]) -> Iterator[RaggedTokens]:
        """Yield the tokens of each group of texts: those that tiktoken gives them."""
        windows = [list(self.windows(texts)) for texts in groups]
        pieces = [window.pieces for of_group in windows for window in of_group]
        kind = pa.dictionary(pa.int32(), pa.large_binary())
        unified = iter(pa.chunked_array(pieces, kind).unify_dictionaries().chunks)
        piece_tokens: pa.LargeBinaryArray | None = None  # of each distinct piece
        for texts, of_group in zip(groups, windows, strict=True):
            values, offsets = [np.empty(0, self.dtype)], np.zeros(len(texts) + 1, np.int64)
            n_tokens = 0
            for window, numbered in zip(of_group, unified, strict=False):  # takes len(of_group)
                if piece_tokens is None:
                    piece_tokens = self.encode_pieces(numbered.dictionary)
                _, byte_offsets, content = piece_tokens.take(numbered.indices).buffers()
                before = np.frombuffer(byte_offsets, np.int64)[window.ends] // self.dtype.itemsize
                offsets[window.texts] = n_tokens + before
                values.append(np.frombuffer(content, self.dtype))
                n_tokens += len(values[-1])
            yield RaggedTokens(np.concatenate(values), offsets)

    def windows(self, texts: pa.LargeStringArray) -> Iterator[Window]:
        """Yield the pieces of some texts, dictionary-encoded within each window."""
        content, offsets = utf8(texts)
        first = int(np.searchsorted(offsets, 0, side="right"))
        for bounds in self.splitter.windows(content, offsets):
            start, stop = int(bounds[0]), int(bounds[-1])
            ending = slice(first, int(np.searchsorted(offsets, stop, side="right")))
            pieces = binary_array(bounds - start, content[start:stop]).dictionary_encode()
            yield Window(pieces, ending, np.searchsorted(bounds, offsets[ending]))
            first = ending.stop

    def encode_pieces(self, pieces: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
        """Return the tokens of each piece, as bytes."""
        tokens = self.merger.encode(pieces.to_pylist())
        return binary_array(tokens.offsets * self.dtype.itemsize, tokens.values)


def binary_array(bounds: Positions, content: NDArray[np.unsignedinteger]) -> pa.LargeBinaryArray:
    """Return an array of the bytes of `content` between consecutive bounds, without copying."""
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
