"""Sequences of n words as 64-bit numbers, by which texts are compared without being kept.

A word is a run of letters, digits and their marks, in lower case; all else only parts words, as in
the GPT-3 paper (Brown et al. 2020, appendix C). In a script without spaces a phrase is a word. The
numbers are the same on every machine. Two sequences share theirs by chance once in 2^64.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.rng import splitmix

Hashes = NDArray[np.uint64]

PIECE = 1 << 17  # characters hashed at a time, so that the arrays stay in the processor's cache
BASE = 0x9E3779B97F4A7C13  # = 3 modulo 8: powers of it differ in their low bits too
INVERSE = pow(BASE, -1, 2**64)
TABLE = 0x40000  # code points with a number of their own; those after it are private or tags
FOLDED = 0x20000  # from here on up to TABLE all are ideographs: letters without case


@cache
def letters() -> Hashes:
    """(TABLE,) a random number for each character of a word, in either case; 0 for all others."""
    table = splitmix(np.arange(TABLE, dtype=np.uint64))
    folded = np.arange(FOLDED)
    for code in range(FOLDED):
        character = chr(code)
        if unicodedata.category(character)[0] in "LMN":
            folded[code] = ord(character.lower()[0])
        else:
            folded[code] = -1
    table[:FOLDED] = np.where(folded < 0, 0, table[folded])
    return table


@cache
def powers(base: int, count: int) -> Hashes:
    """(count,) base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def sums_of_runs(values: Hashes, starts: NDArray[Any], stops: NDArray[Any]) -> Hashes:
    """A number for each run values[start:stop] that depends on its values and their order.

    The polynomial hash of Karp and Rabin (1987): a run's is a difference of two prefix sums, moved
    to the origin by a power of the inverse base.
    """
    count = 1 << max(1, len(values).bit_length())
    prefix = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers(BASE, count)[: len(values)], out=prefix[1:])
    return splitmix((prefix[stops] - prefix[starts]) * powers(INVERSE, count)[starts])


def word_hashes(texts: list[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """(words,) a number for each word of some texts, and which of the texts it is from."""
    joined = "\n".join([*texts, ""])  # a text's last word ends with it
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    values = letters().take(codes, mode="clip")
    inside = np.concatenate([[False], values != 0])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    ends = np.cumsum([len(text) + 1 for text in texts])
    return sums_of_runs(values, starts, stops), np.searchsorted(ends, starts, side="right")


def pieces(texts: Iterable[str]) -> Iterator[tuple[list[str], list[int]]]:
    """About PIECE characters at a time, and the index of the text that each string is from."""
    waiting: list[str] = []
    indices: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        start = 0
        while start < len(text):
            stop = min(len(text), start + PIECE)
            if stop < len(text):  # between two words, unless there is none in reach
                space = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
                stop = space if space > start else stop
            waiting.append(text[start:stop])
            indices.append(index)
            size, start = size + stop - start, stop
            if size >= PIECE:
                yield waiting, indices
                waiting, indices, size = [], [], 0
    if waiting:
        yield waiting, indices


def ngram_hashes(texts: Iterable[str], n: int) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """Batches of a number for each n words in a row, and the index of the text they are from.

    In bounded memory, however long a text is. A text of fewer words than n has none.
    """
    words, owners = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for batch, indices in pieces(texts):
        new_words, new_owners = word_hashes(batch)
        words = np.concatenate([words, new_words])
        owners = np.concatenate([owners, np.array(indices)[new_owners]])
        last = max(0, len(words) - n + 1)
        starts = np.flatnonzero(owners[:last] == owners[n - 1 :])
        yield sums_of_runs(words, starts, starts + n), owners[starts]
        words, owners = words[last:], owners[last:]
