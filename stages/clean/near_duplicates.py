"""Texts that say nearly the same as an earlier one.

Two texts are as similar as their sets of five words in a row (Jaccard: what is common, over all).
128 minima of hashes estimate it with a standard error of at most 0.05 (MinHash, Broder 1997). Who
may be similar to whom is found by bands of them (locality-sensitive hashing: Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3). A text of fewer words is similar to none.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.word_ngrams import ngram_hashes

WORDS = 5
MINIMA = 128
SEED = 1  # of datasketch's permutations
NOTHING = np.uint32(2**32 - 1)  # the minimum of no hashes at all

# What the bands propose is checked, what they overlook is lost: a miss counts for more. Of two
# texts as similar as the threshold they find at least nine in ten.
FALSE_POSITIVE, FALSE_NEGATIVE = 0.05, 0.95

Signatures = NDArray[np.uint32]


def signatures(texts: Iterable[str], count: int) -> Signatures:
    """(count, MINIMA) of as many texts; NOTHING throughout where one is too short."""
    from datasketch import MinHash

    blank = MinHash(num_perm=MINIMA, seed=SEED, hashfunc=int, scheme="affine32")
    found = np.full((count, MINIMA), NOTHING, dtype=np.uint32)
    for hashes, owners in ngram_hashes(texts, WORDS):
        upper = hashes >> np.uint64(32)  # the width that datasketch takes
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(owners)]):
            minhash = blank.copy()
            minhash.update_batch(upper[start:stop].tolist())
            row = found[owners[start]]  # a long text comes in several batches
            np.minimum(row, minhash.hashvalues, out=row)
    return found


def near_duplicates(
    found: Signatures, threshold: float, among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of the texts `among` all are about as similar to an earlier one that is none of them.

    `found` (texts, MINIMA) may be a file mapped to memory. The index takes about 4 KB for each text
    that shares a band with another, and nothing for those that do not: nearly all, in most corpora.
    """
    from datasketch import LeanMinHash, MinHashLSH

    weights = (FALSE_POSITIVE, FALSE_NEGATIVE)
    index = MinHashLSH(threshold=threshold, num_perm=MINIMA, weights=weights)
    near = np.zeros(len(found), dtype=np.bool_)
    for i in np.flatnonzero(sharing_a_band(found, index.b, index.r, among)).tolist():
        minhash = LeanMinHash(seed=SEED, hashvalues=found[i], scheme="affine32")
        similar = sorted(index.query(minhash))
        if similar and (found[similar] == found[i]).mean(axis=1).max() >= threshold:
            near[i] = True
        else:
            index.insert(i, minhash)
    return near


def sharing_a_band(
    found: Signatures, bands: int, rows: int, among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which texts have `rows` minima in a row in common with another; about 160 bytes for each."""
    texts = np.flatnonzero(among)
    texts = texts[found[texts, 0] != NOTHING]
    factors = np.random.default_rng(SEED).integers(2**64, size=rows, dtype=np.uint64) | np.uint64(1)
    shared = np.zeros(len(texts), dtype=np.bool_)
    for band in range(bands):
        block = found[texts, band * rows : (band + 1) * rows]
        keys = np.zeros(len(texts), dtype=np.uint64)
        for row, factor in enumerate(factors):
            keys += block[:, row] * factor
        _, place, count = np.unique(keys, return_inverse=True, return_counts=True)
        shared |= count[place] > 1
    answer: NDArray[Any] = np.zeros(len(found), dtype=np.bool_)
    answer[texts[shared]] = True
    return answer
