r"""GPT-2's pieces of text, cut by operations on whole arrays, each distinct piece encoded once.

The more text at once, the fewer of its pieces are new, and the cheaper it is to encode.

GPT-2's pattern splits a text into pieces, and a piece has the same ids wherever it occurs:

    '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

That is runs of letters, of numbers, of white space and of anything else, but for three rules: a
space before a run belongs to it; of several white spaces the last is a piece apart from the others
where something follows; and an apostrophe where a piece begins takes one of seven endings with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import tiktoken
from numpy.typing import NDArray

from stages.arrow import utf8
from stages.tokens.tokenizer import BpeTokenizer, Ids, code_points, token_dtype

UNKNOWN, LETTER, NUMBER, SPACE, OTHER = range(5)
PATTERNS = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}

LONG_CONTRACTIONS = [int.from_bytes(ending) for ending in (b"ll", b"ve", b"re")]

WINDOW_BYTES = 8 << 20  # cut at once: more than a group of texts has, unless one text is very long
LOOK_AHEAD = 8  # bytes on which it may depend whether a piece starts: two characters

MARK = "\n0\n"  # after each piece, in none: where a line end is, all of a piece is white space

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


class CharacterClasses:
    """What tiktoken's own engine takes characters for: it is asked once about each.

    Python, Arrow and tiktoken follow different versions of Unicode.
    """

    def __init__(self) -> None:
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        self.matching = {
            kind: tiktoken.Encoding(
                pattern, pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={}
            )
            for kind, pattern in PATTERNS.items()
        }
        self.known = np.zeros(0x110000, np.uint8)  # by code point
        self.learn(range(128))
        self.of_byte = self.known[:256].tobytes()

    def learn(self, codes: Sequence[int]) -> None:
        """Ask about characters. What an encoding's pattern does not match, it leaves out."""
        text = "".join(map(chr, codes))
        self.known[codes] = OTHER
        for kind, encoding in self.matching.items():
            matched = bytes(encoding.encode_ordinary(text)).decode()
            self.known[code_points(matched)] = kind

    def of(self, content: Bytes) -> Bytes:
        """For each byte of UTF-8 (n,) the class of the character it is of."""
        classes = np.frombuffer(bytearray(content).translate(self.of_byte), np.uint8)
        high = np.flatnonzero(content >= 0x80)  # of characters of several bytes
        if len(high):
            codes = code_points(content[high].tobytes().decode())
            unknown = codes[self.known[codes] == UNKNOWN]
            if len(unknown):
                self.learn(sorted(set(unknown.tolist())))
            number = np.cumsum(content[high] >= 0xC0) - 1  # of the character, for each byte
            classes[high] = self.known[codes][number]
        return classes


def piece_bounds(content: Bytes, breaks: Positions, classes: CharacterClasses) -> Positions:
    """The byte at which each piece of a content (UTF-8, not empty) starts, then where it ends.

    At `breaks`, inside of it, another text begins.
    """
    kind = classes.of(content)
    bounds = np.ones(len(content) + 1, np.bool_)
    starts = bounds[:-1]
    np.not_equal(kind[1:], kind[:-1], out=starts[1:])

    # The last white space before something else in the same text starts a piece; a space joins it.
    space = kind == SPACE
    last = space[:-1] & ~space[1:]
    last[breaks - 1] = False
    starts[:-1] |= last
    wide = np.flatnonzero(last & (content[:-1] >= 0x80))  # the last byte of two or three
    starts[wide] = False
    starts[wide - np.where(content[wide - 1] >= 0xC0, 1, 2)] = True
    starts[1:] &= ~(last & (content[:-1] == ord(" ")))
    starts[breaks] = True

    apostrophes = np.flatnonzero(content == ord("'"))
    apostrophes = apostrophes[starts[apostrophes]]
    lengths = contractions(content, apostrophes, breaks)
    starts[apostrophes[lengths > 0] + 1] = False
    bounds[(apostrophes + lengths)[lengths > 0]] = True
    return np.flatnonzero(bounds)


def contractions(content: Bytes, apostrophes: Positions, breaks: Positions) -> Positions:
    """The bytes of 's, 'd, 'm, 't, 'll, 've or 're at each apostrophe; 0 where there is none."""
    ends = np.append(breaks, len(content))  # of texts
    left = ends[np.searchsorted(breaks, apostrophes, side="right")] - apostrophes
    one, two = (
        np.where(left > ahead, content[np.minimum(apostrophes + ahead, len(content) - 1)], 0)
        for ahead in (1, 2)
    )
    short = np.isin(one, list(b"sdmt"))
    long = np.isin(one * np.int64(256) + two, LONG_CONTRACTIONS)
    return 2 * short + 3 * long


@dataclass(frozen=True)
class Window:
    """Some bytes of a group of texts as pieces."""

    pieces: pa.DictionaryArray
    texts: slice  # those that end in it, among the ends of the group's
    ends: Positions  # after how many of its pieces each of them ends


class PieceEncoder:
    """GPT-2's encoding of many texts at once, whatever the tokenizer's ranks."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self.classes = CharacterClasses()
        self.dtype = np.dtype(token_dtype(tokenizer.n_vocab))
        self.mark = tokenizer.n_vocab
        self.whole = tiktoken.Encoding(
            "whole pieces",
            pat_str=r"[\s\S]+",
            mergeable_ranks=tokenizer.ranks,
            special_tokens={MARK: self.mark},
        )

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
        done, first = 0, int(np.searchsorted(ends, 0, side="right"))
        while done < len(content):
            bounds = self.first_pieces(content[done:], ends - done, WINDOW_BYTES)
            stop = done + int(bounds[-1])
            here = slice(first, int(np.searchsorted(ends, stop, side="right")))
            pieces = strings(bounds, content[done:stop]).dictionary_encode()
            yield Window(pieces, here, np.searchsorted(bounds, ends[here] - done))
            done, first = stop, here.stop

    def first_pieces(self, content: Bytes, ends: Positions, size: int) -> Positions:
        """Where each of the first pieces starts and, at last, where they end: at most about `size`.

        Of a content that is longer, what is less than LOOK_AHEAD before its cut is left out: there
        it depends on what follows. A piece that is longer than `size` comes whole.
        """
        stop = min(size, len(content))
        while stop < len(content) and content[stop] & 0xC0 == 0x80:  # inside a character
            stop -= 1
        breaks = ends[(ends > 0) & (ends < stop)]
        bounds = piece_bounds(content[:stop], breaks, self.classes)
        if stop == len(content):
            return bounds
        certain = bounds[bounds <= stop - LOOK_AHEAD]
        return certain if len(certain) > 1 else self.first_pieces(content, ends, 2 * size)

    def merged(self, pieces: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
        """The ids of each piece, as bytes, by one call of tiktoken."""
        text = MARK.encode().join([*pieces.to_pylist(), b""]).decode()
        found = self.whole.encode_to_numpy(text, allowed_special={MARK})
        is_mark = found == self.mark
        ends = np.append(0, np.flatnonzero(is_mark) - np.arange(len(pieces)))
        return strings(ends * self.dtype.itemsize, found[~is_mark].astype(self.dtype))


def strings(bounds: Positions, content: NDArray[np.unsignedinteger]) -> pa.LargeBinaryArray:
    """The bytes of `content` between each two bounds, not copied."""
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
