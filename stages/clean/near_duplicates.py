"""Near-duplicate detection with MinHash and locality-sensitive hashing (LSH).

The similarity of two documents is the Jaccard similarity of their sets of shingles: five words in a
row. A MinHash signature of 128 permutations estimates it with a standard error of at most 0.05
(Broder 1997). LSH over bands of the signatures proposes the pairs to compare (Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3). A document of fewer than five words is similar
to no other.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.word_ngrams import ngram_hashes

SHINGLE_WORDS = 5
NUM_PERM = 128
SEED = 1  # of datasketch's permutations
NO_HASH = np.uint32(2**32 - 1)  # the minimum over an empty set of hashes

# Pairs that the bands propose are checked and those they overlook are lost, so that a miss weighs
# more. Of two documents as similar as the threshold the bands find at least nine in ten.
FALSE_POSITIVE, FALSE_NEGATIVE = 0.05, 0.95

Signatures = NDArray[np.uint32]


def minhash_signatures(documents: Iterable[str], count: int) -> Signatures:
    """Return the signatures (count, NUM_PERM) of `count` documents.

    The signature of a document that is too short is NO_HASH throughout.
    """
    from datasketch import MinHash

    empty = MinHash(num_perm=NUM_PERM, seed=SEED, hashfunc=int, scheme="affine32")
    signatures = np.full((count, NUM_PERM), NO_HASH, dtype=np.uint32)
    for hashes, owners in ngram_hashes(documents, SHINGLE_WORDS):
        upper = hashes >> np.uint64(32)  # datasketch takes 32 bits
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(owners)]):
            minhash = empty.copy()
            minhash.update_batch(upper[start:stop].tolist())
            row = signatures[owners[start]]  # a long document comes in several batches
            np.minimum(row, minhash.hashvalues, out=row)
    return signatures


def near_duplicates(
    signatures: Signatures, threshold: float, candidates: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return a mask (n,) of the candidates that nearly duplicate an earlier one.

    A candidate is compared with the earlier ones that are not near duplicates themselves. The
    signatures (n, NUM_PERM) may be a memory-mapped file. The index takes about 4 KB for each
    document that shares a band with another, and nothing for the rest: nearly all, in most corpora.
    """
    from datasketch import LeanMinHash, MinHashLSH

    weights = (FALSE_POSITIVE, FALSE_NEGATIVE)
    index = MinHashLSH(threshold=threshold, num_perm=NUM_PERM, weights=weights)
    duplicate = np.zeros(len(signatures), dtype=np.bool_)
    for i in np.flatnonzero(sharing_a_band(signatures, index.b, index.r, candidates)).tolist():
        minhash = LeanMinHash(seed=SEED, hashvalues=signatures[i], scheme="affine32")
        similar = sorted(index.query(minhash))
        if similar and (signatures[similar] == signatures[i]).mean(axis=1).max() >= threshold:
            duplicate[i] = True
        else:
            index.insert(i, minhash)
    return duplicate


def sharing_a_band(
    signatures: Signatures, bands: int, rows: int, candidates: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return a mask (n,) of the candidates that share a band with another one.

    A band is `rows` consecutive values of a signature. Takes about 160 bytes per document.
    """
    documents = np.flatnonzero(candidates)
    documents = documents[signatures[documents, 0] != NO_HASH]
    factors = np.random.default_rng(SEED).integers(2**64, size=rows, dtype=np.uint64) | np.uint64(1)
    shared = np.zeros(len(documents), dtype=np.bool_)
    for band in range(bands):
        block = signatures[documents, band * rows : (band + 1) * rows]
        keys = np.zeros(len(documents), dtype=np.uint64)
        for row, factor in enumerate(factors):
            keys += block[:, row] * factor
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        shared |= counts[inverse] > 1
    mask: NDArray[Any] = np.zeros(len(signatures), dtype=np.bool_)
    mask[documents[shared]] = True
    return mask
