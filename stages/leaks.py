"""What a model could know by heart: validation text that stands in the training text too.

Measured as in the GPT-3 paper (Brown et al. 2020, appendix C): by sequences of 13 words, long
enough that chance alone hardly repeats one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stages.word_ngrams import Hashes, ngram_hashes

WORST = 10
FILTER_BITS = 26  # at most 64 MB


@dataclass(frozen=True)
class Overlap:
    """How many of the n-grams of the validation text stand in the training text."""

    ngrams: int
    found: int
    share: float  # 0 where there is no n-gram
    worst: tuple[tuple[int, float], ...]  # (index of the document, share of it), at most WORST


class Known:
    """A set of n-grams that many others are looked up in; 8 bytes each, and a filter."""

    def __init__(self, hashes: Hashes) -> None:
        self.sorted = np.unique(hashes)
        self.found = np.zeros(len(self.sorted), dtype=bool)
        bits = min(FILTER_BITS, int(len(self.sorted) * 16).bit_length())
        self.shift = np.uint64(64 - bits)
        self.filter = np.zeros(1 << bits, dtype=bool)
        self.filter[self.sorted >> self.shift] = True

    def mark(self, hashes: Hashes) -> None:
        """Note which of the known ones are among these."""
        likely = hashes[self.filter[hashes >> self.shift]]  # nearly all others end here
        places = np.searchsorted(self.sorted, likely)
        places[places == len(self.sorted)] = 0
        self.found[places[self.sorted[places] == likely]] = True

    def were_found(self, hashes: Hashes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether each of these, all known, was marked."""
        return self.found[np.searchsorted(self.sorted, hashes)]


def overlap(
    train_texts: Iterable[str], val_texts: Iterable[str], n: int = 13, *, sample: float = 1.0
) -> Overlap:
    """The share of the validation texts' n-grams that stand in a training text as well.

    Holds 20 bytes for each n-gram of the validation side and streams the training side. `sample`
    keeps this share of the n-grams, chosen by their hash, for an estimate in less memory.
    """
    limit = np.uint64(min(int(sample * 2.0**64), 2**64 - 1))
    batches = [(h[h <= limit], owners[h <= limit]) for h, owners in ngram_hashes(val_texts, n)]
    if not batches:
        return Overlap(0, 0, 0.0, ())
    hashes, owners = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    if not len(hashes):
        return Overlap(0, 0, 0.0, ())
    known = Known(hashes)
    for batch, _ in ngram_hashes(train_texts, n):
        known.mark(batch)
    found = known.were_found(hashes)
    return Overlap(
        ngrams=len(hashes),
        found=int(found.sum()),
        share=float(found.mean()),
        worst=worst_documents(owners, found),
    )


def worst_documents(
    owners: np.ndarray[tuple[int], np.dtype[np.int64]],
    found: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[tuple[int, float], ...]:
    """(document, share found) of those with the most, the earlier first where they are equal."""
    totals = np.bincount(owners)
    shares = np.bincount(owners, weights=found) / np.maximum(totals, 1)
    order = np.argsort(-shares, kind="stable")[:WORST]
    return tuple((int(i), float(shares[i])) for i in order if shares[i] > 0)
