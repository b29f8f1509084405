"""Contamination: validation text that is in the training text too.

It is measured as in the GPT-3 paper (Brown et al. 2020, appendix C), by n-grams of 13 words, which
are so long that they hardly ever repeat by chance.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.lib.word_ngrams import Hashes, ngram_hashes

WORST = 10
FILTER_BITS = 26  # at most 64 MB


@dataclass(frozen=True)
class Overlap:
    """The n-grams of the validation text that are also in the training text."""

    ngrams: int
    shared: int
    share: float  # shared / ngrams, or 0 if there are none
    worst: tuple[tuple[int, float], ...]  # (document, share of its n-grams), at most WORST


class NgramSet:
    """A set of n-grams that records which of them occur elsewhere: sorted, behind a filter."""

    def __init__(self, hashes: Hashes) -> None:
        self.order = np.argsort(hashes)
        self.sorted = hashes[self.order]
        self.seen = np.zeros(len(hashes), dtype=np.bool_)  # for equal n-grams, only the first
        bits = min(FILTER_BITS, (len(hashes) * 16).bit_length())
        self.shift = np.uint64(64 - bits)
        self.filter = np.zeros(1 << bits, dtype=np.bool_)
        self.filter[self.sorted >> self.shift] = True

    def mark(self, hashes: Hashes) -> None:
        """Record which n-grams of the set are among these."""
        likely = np.sort(hashes[self.filter[hashes >> self.shift]])  # drops nearly all others
        positions = np.searchsorted(self.sorted, likely)  # three times faster if sorted
        positions[positions == len(self.sorted)] = 0
        self.seen[positions[self.sorted[positions] == likely]] = True

    def were_seen(self) -> NDArray[np.bool_]:
        """Return whether each n-gram was marked (n-grams,), in their original order."""
        first = np.append(True, self.sorted[1:] != self.sorted[:-1])
        seen = np.empty(len(self.order), dtype=np.bool_)
        seen[self.order] = self.seen[first][np.cumsum(first) - 1]
        return seen


def overlap(train_texts: Iterable[str], val_texts: Iterable[str], n: int) -> Overlap:
    """Return which n-grams of the validation texts are in a training text as well.

    Takes about 75 bytes of memory per n-gram of the validation texts; training texts are streamed.
    """
    hashes, owners = collect_ngrams(val_texts, n)
    if not len(hashes):
        return Overlap(0, 0, 0.0, ())
    val_ngrams = NgramSet(hashes)
    for batch, _ in ngram_hashes(train_texts, n):
        val_ngrams.mark(batch)
    shared = val_ngrams.were_seen()
    return Overlap(
        ngrams=len(hashes),
        shared=int(shared.sum()),
        share=float(shared.mean()),
        worst=worst_documents(owners, shared),
    )


def collect_ngrams(texts: Iterable[str], n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all n-grams of some texts, and the index of the text of each."""
    hashes, owners = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for batch, indices in ngram_hashes(texts, n):
        hashes.append(batch)
        owners.append(indices)
    return np.concatenate(hashes), np.concatenate(owners)


def worst_documents(
    owners: NDArray[np.int64], shared: NDArray[np.bool_]
) -> tuple[tuple[int, float], ...]:
    """Return (document, share of its n-grams) by falling share, then by position."""
    totals = np.bincount(owners)
    shares = np.bincount(owners, weights=shared) / np.maximum(totals, 1)
    order = np.argsort(-shares, kind="stable")[:WORST]
    return tuple((int(i), float(shares[i])) for i in order if shares[i] > 0)
