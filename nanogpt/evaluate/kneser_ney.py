"""Interpolated modified Kneser-Ney smoothing: the strongest of the static n-gram models.

Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling" (Harvard
TR-10-98; also Computer Speech and Language 13, 1999). With h' for a context h without its first
token and h* for all its continuations:

    p(w|h)   = (c(hw) - D(c(hw))) / c(h*) + gamma(h) p(w|h')
    gamma(h) = (D1 N1(h*) + D2 N2(h*) + D3 N3+(h*)) / c(h*)

c is the number of occurrences of an n-gram of the highest order and, for lower orders, the number
of different tokens that precede it (its continuation count); c(h*) is the sum of c(hw) over w, and
Ni(h*) the number of w with c(hw) = i. Unigrams are interpolated with the uniform 1 / V. After an
unseen context, p(w|h) is p(w|h').

End-of-text tokens are prepended to a stream, so that its first token has a context; contexts cross
document boundaries, as training windows do.

Shapes: T tokens, V vocabulary, n different n-grams of one order, m of the order below. An n-gram is
known by its index: the position of its key (index of the n-gram without its first token * V + first
token) among the sorted keys of its order. A key fits into 64 bits for any order and vocabulary, and
binary search finds it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.data.stream import TokenStream

ORDER = 5  # a sixth gains 0.0005 bits per byte of Shakespeare
MAX_TOKENS = 1 << 24  # to count: some 1.2 GB of memory and 20 seconds, and less for less text
CHUNK_TOKENS = 1 << 20  # whose probabilities are computed at a time
FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One order of the model. The last of `shares` and of `gammas` belong to unseen n-grams."""

    keys: Integers  # (n,) ascending
    shares: Floats  # (n + 1,) (c(hw) - D(c(hw))) / c(h*)
    gammas: Floats  # (m + 1,) by the index of the context


@dataclass(frozen=True, kw_only=True)
class KneserNey:
    """A trained model, as `count` returns it."""

    levels: list[Level]  # unigrams first
    vocab_size: int
    eot_token: int

    def probabilities(self, tokens: Integers) -> Floats:
        """Return the probability of each of the last T of tokens (order + T,), shape (T,)."""
        order = len(self.levels)
        indices = np.zeros(len(tokens) - order + 1, dtype=np.int64)  # (1 + T,) of the empty n-gram
        p = np.full(len(tokens) - order, 1 / self.vocab_size)
        for k, level in enumerate(self.levels):
            contexts = indices[:-1]
            indices = find_keys(level.keys, extended_keys(indices, tokens, k, self.vocab_size))
            p = level.shares[indices[1:]] + level.gammas[contexts] * p
        return p

    def loss(self, stream: TokenStream) -> float:
        """Return the mean loss over a whole stream in nats per token."""
        total = 0.0
        for start in range(0, len(stream), CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, len(stream))
            tokens = read_with_context(stream, start, stop, len(self.levels), self.eot_token)
            total -= float(np.log(self.probabilities(tokens)).sum())
        return total / len(stream)


def count(stream: TokenStream, vocab_size: int, eot_token: int, *, order: int = ORDER) -> KneserNey:
    """Train a model on the last MAX_TOKENS tokens of a stream."""
    start = max(0, len(stream) - MAX_TOKENS)
    tokens = read_with_context(stream, start, len(stream), order, eot_token)
    lower = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    keys, indices = np.unique(extended_keys(lower, tokens, 0, vocab_size), return_inverse=True)
    levels = []
    for k in range(1, order):
        higher_keys, higher = np.unique(
            extended_keys(indices, tokens, k, vocab_size), return_inverse=True
        )
        occurs = np.bincount(higher[1:], minlength=len(higher_keys)) > 0
        continuations = np.bincount(higher_keys[occurs] // vocab_size, minlength=len(keys))
        levels.append(discounted_level(keys, continuations, indices, lower))
        keys, indices, lower = higher_keys, higher, indices
    occurrences = np.bincount(indices[1:], minlength=len(keys))
    levels.append(discounted_level(keys, occurrences, indices, lower))
    return KneserNey(levels=levels, vocab_size=vocab_size, eot_token=eot_token)


def read_with_context(
    stream: TokenStream, start: int, stop: int, order: int, eot_token: int
) -> Integers:
    """Read tokens [start - order, stop), with end-of-text tokens before the first."""
    first = max(start - order, 0)
    lead = np.full(first - start + order, eot_token, dtype=np.int64)
    return np.concatenate((lead, stream.read(first, stop)))


def extended_keys(indices: Integers, tokens: Integers, k: int, vocab_size: int) -> Integers:
    """Return the keys (1 + T,) of n-grams of k tokens extended by the token before them.

    `indices` (1 + T,) are those of the n-grams of k tokens that end at the token before the last T
    of `tokens` and at each of these T.
    """
    stop = len(tokens) - k
    return indices * vocab_size + tokens[stop - len(indices) : stop]


def find_keys(keys: Integers, wanted: Integers) -> Integers:
    """Return the index of each wanted key in the ascending keys (n,), or n if it is missing."""
    indices = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[indices] == wanted, indices, len(keys))


def discounted_level(keys: Integers, counts: Integers, indices: Integers, lower: Integers) -> Level:
    """Return the level of the n-grams with these keys (n,) and counts c (n,), discounted.

    `indices` and `lower` (1 + T,) are the n-grams of this order and of the one below that end at
    each position. The first position, before the text, is a context only: its n-gram may have
    count 0.
    """
    contexts = np.zeros_like(keys)
    contexts[indices[1:]] = lower[:-1]
    discounts = estimate_discounts(np.bincount(counts, minlength=5)[1:5])[np.minimum(counts, 3)]
    size = int(lower.max()) + 2
    totals = np.bincount(contexts, counts, minlength=size)
    discounted = np.bincount(contexts, discounts, minlength=size)
    gammas = np.where(totals > 0, discounted / np.maximum(totals, 1), 1.0)
    shares = (counts - discounts) / np.maximum(totals[contexts], 1)
    return Level(keys=keys, shares=np.append(shares, 0.0), gammas=gammas)


def estimate_discounts(n: Integers) -> Floats:
    """Return D (4,) for counts of 0, 1, 2 and more, given n (4,): how many have counts 1 to 4.

    Chen and Goodman's equation 26: D_i = i - (i + 1) Y n_{i+1} / n_i, Y = n_1 / (n_1 + 2 n_2).
    Where that is undefined (n_1, n_2 or n_3 is 0) or outside [0, i], as with little text or a small
    vocabulary, fall back to 0.5, 1 and 1.5, as KenLM does (--discount_fallback).
    """
    if not n[:3].all():
        return np.array(FALLBACK_DISCOUNTS)
    i = np.arange(1, 4)
    discounts = i - (i + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
    possible = (discounts >= 0) & (discounts <= i)
    return np.array([0.0, *discounts]) if possible.all() else np.array(FALLBACK_DISCOUNTS)
