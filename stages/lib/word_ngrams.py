"""64-bit hashes of word n-grams, by which texts are compared without being kept in memory.

A word is a run of letters, digits and their marks, in lower case; anything else only separates
words, as in the GPT-3 paper (Brown et al. 2020, appendix C). In a script without spaces a phrase is
a word. The hashes are the same on every machine. Two n-grams collide with probability 2^-64.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.rng import splitmix

Hashes = NDArray[np.uint64]

PIECE = 1 << 17  # characters hashed at a time: the arrays stay in the processor's cache
BASE = 0x9E3779B97F4A7C13  # = 3 modulo 8, so that its powers differ in their low bits too
INVERSE = pow(BASE, -1, 2**64)
TABLE = 0x40000  # code points with a hash of their own; those after it are private use or tags
FOLDED = 0x20000  # from here up to TABLE all are ideographs: letters without case


@cache
def character_hashes() -> Hashes:
    """Return a hash of each code point (TABLE,), equal for both cases; 0 if not part of a word."""
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
    """Return base^0, base^1, ... modulo 2^64 (count,)."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def hash_runs(values: Hashes, starts: NDArray[Any], stops: NDArray[Any]) -> Hashes:
    """Return a hash of each run values[start:stop], which depends on its values and their order.

    This is the polynomial hash of Karp and Rabin (1987): the difference of two prefix sums, shifted
    to the origin by a power of the inverse base.
    """
    count = 1 << max(1, len(values).bit_length())
    prefix = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers(BASE, count)[: len(values)], out=prefix[1:])
    return splitmix((prefix[stops] - prefix[starts]) * powers(INVERSE, count)[starts])


def word_hashes(texts: list[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return a hash of each word of some texts, and the index of its text (words,)."""
    joined = "\n".join([*texts, ""])  # a line end ends the last word of each text
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    values = character_hashes().take(codes, mode="clip")
    inside = np.concatenate([[False], values != 0])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    ends = np.cumsum([len(text) + 1 for text in texts])
    return hash_runs(values, starts, stops), np.searchsorted(ends, starts, side="right")


def split_texts(texts: Iterable[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Yield strings of about PIECE characters in all, and the index of the text of each."""
    strings: list[str] = []
    indices: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        start = 0
        while start < len(text):
            stop = min(len(text), start + PIECE)
            if stop < len(text):  # cut between two words, unless a word is that long
                space = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
                stop = space if space > start else stop
            strings.append(text[start:stop])
            indices.append(index)
            size, start = size + stop - start, stop
            if size >= PIECE:
                yield strings, indices
                strings, indices, size = [], [], 0
    if strings:
        yield strings, indices


def ngram_hashes(texts: Iterable[str], n: int) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """Yield batches of hashes of n consecutive words, and the index of the text of each.

    Memory is bounded however long a text is. A text of fewer than n words has none.
    """
    words, owners = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for batch, indices in split_texts(texts):
        new_words, new_owners = word_hashes(batch)
        words = np.concatenate([words, new_words])
        owners = np.concatenate([owners, np.array(indices)[new_owners]])
        last = max(0, len(words) - n + 1)
        starts = np.flatnonzero(owners[:last] == owners[n - 1 :])
        yield hash_runs(words, starts, starts + n), owners[starts]
        words, owners = words[last:], owners[last:]
