"""What a model could know by heart: validation text that is in the training text too.

Measured as in the GPT-3 paper (Brown et al. 2020, appendix C): by sequences of 13 words, long
enough that chance alone hardly repeats one.
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
    """How many of the n-grams of the validation text are in the training text."""

    ngrams: int
    found: int
    share: float  # 0 where there is no n-gram
    worst: tuple[tuple[int, float], ...]  # (index of the document, share of it), at most WORST


class Known:
    """N-grams that many others are looked up in: sorted, behind a filter."""

    def __init__(self, hashes: Hashes) -> None:
        self.order = np.argsort(hashes)
        self.sorted = hashes[self.order]
        self.found = np.zeros(
            len(hashes), dtype=np.bool_
        )  # of equal ones, the first stands for all
        bits = min(FILTER_BITS, (len(hashes) * 16).bit_length())
        self.shift = np.uint64(64 - bits)
        self.filter = np.zeros(1 << bits, dtype=np.bool_)
        self.filter[self.sorted >> self.shift] = True

    def mark(self, hashes: Hashes) -> None:
        """Note which of the known ones are among these."""
        likely = np.sort(hashes[self.filter[hashes >> self.shift]])  # nearly all others end here
        places = np.searchsorted(self.sorted, likely)  # three times faster in order
        places[places == len(self.sorted)] = 0
        self.found[places[self.sorted[places] == likely]] = True

    def were_found(self) -> NDArray[np.bool_]:
        """Whether each of the known ones, in the order they came, was among those."""
        first = np.append(True, self.sorted[1:] != self.sorted[:-1])
        answer = np.empty(len(self.order), dtype=np.bool_)
        answer[self.order] = self.found[first][np.cumsum(first) - 1]
        return answer


def overlap(train_texts: Iterable[str], val_texts: Iterable[str], n: int) -> Overlap:
    """The share of the validation texts' n-grams that are in a training text as well.

    Holds about 75 bytes for each n-gram of the validation side and streams the training side.
    """
    hashes, owners = collected(val_texts, n)
    if not len(hashes):
        return Overlap(0, 0, 0.0, ())
    known = Known(hashes)
    for batch, _ in ngram_hashes(train_texts, n):
        known.mark(batch)
    found = known.were_found()
    return Overlap(
        ngrams=len(hashes),
        found=int(found.sum()),
        share=float(found.mean()),
        worst=worst_documents(owners, found),
    )


def collected(texts: Iterable[str], n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """All n-grams of some texts, and which text each is from."""
    hashes, owners = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for batch, indices in ngram_hashes(texts, n):
        hashes.append(batch)
        owners.append(indices)
    return np.concatenate(hashes), np.concatenate(owners)


def worst_documents(
    owners: NDArray[np.int64], found: NDArray[np.bool_]
) -> tuple[tuple[int, float], ...]:
    """(document, share found) of those with the most, the earlier first where they are equal."""
    totals = np.bincount(owners)
    shares = np.bincount(owners, weights=found) / np.maximum(totals, 1)
    order = np.argsort(-shares, kind="stable")[:WORST]
    return tuple((int(i), float(shares[i])) for i in order if shares[i] > 0)
