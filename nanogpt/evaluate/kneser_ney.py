"""Interpolated modified Kneser-Ney: the strongest n-gram model that does not learn as it reads.

Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling" (Harvard
TR-10-98; also Computer Speech and Language 13, 1999). With h' for a context h without its first
token and h* for all its complete_prompts:

    p(w|h)   = (c(hw) - D(c(hw))) / c(h*) + gamma(h) p(w|h')
    gamma(h) = (D1 N1(h*) + D2 N2(h*) + D3 N3+(h*)) / c(h*)

c is how often an n-gram of the highest order occurs, and how many different tokens precede one
of a lower order (its continuation count); c(h*) is the sum of c(hw) over w, and Ni(h*) the number
of w with c(hw) = i. Below the unigrams is the uniform 1 / V. After a context that was never
seen, p(w|h) is p(w|h').

A stream is led by separators, so that its first token has a context; contexts cross separators, as
training windows do.

Legend: T tokens, V vocabulary, n different n-grams of one order, m of the order below. An n-gram is
known by its number: the place of its key (number of the n-gram without its first token * V + first
token) among those of its order. A key fits into 64 bits for any order and vocabulary, and binary
search finds it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.data.stream import TokenStream

ORDER = 5  # a sixth gains 0.0005 bits per byte of Shakespeare
MAX_TOKENS = 1 << 24  # counted: some 1.2 GB of memory and 20 seconds, and less for less text
CHUNK_TOKENS = 1 << 20  # whose probabilities are computed at a time
FALLBACK = (0.0, 0.5, 1.0, 1.5)

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One order of the model. The last of `shares` and of `gammas` are of what was never seen."""

    keys: Numbers  # (n,) ascending
    shares: Floats  # (n + 1,) (c(hw) - D(c(hw))) / c(h*)
    gammas: Floats  # (m + 1,) by the number of the context


@dataclass(frozen=True, kw_only=True)
class KneserNey:
    """A counted model; `count` makes it."""

    levels: list[Level]  # unigrams first
    vocab_size: int
    eot_token: int

    def probabilities(self, tokens: Numbers) -> Floats:
        """Return (T,) the probability of each of the last T of tokens (order + T,) after others."""
        order = len(self.levels)
        numbers = np.zeros(len(tokens) - order + 1, dtype=np.int64)  # (1 + T,) of the empty n-gram
        p = np.full(len(tokens) - order, 1 / self.vocab_size)
        for k, level in enumerate(self.levels):
            contexts = numbers[:-1]
            numbers = look_up(level.keys, longer_keys(numbers, tokens, k, self.vocab_size))
            p = level.shares[numbers[1:]] + level.gammas[contexts] * p
        return p

    def loss(self, stream: TokenStream) -> float:
        """Return the mean loss over a whole stream, in nats per token."""
        total = 0.0
        for start in range(0, len(stream), CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, len(stream))
            tokens = with_context(stream, start, stop, len(self.levels), self.eot_token)
            total -= float(np.log(self.probabilities(tokens)).sum())
        return total / len(stream)


def count(stream: TokenStream, vocab_size: int, eot_token: int, *, order: int = ORDER) -> KneserNey:
    """Count the last MAX_TOKENS tokens of a stream."""
    start = max(0, len(stream) - MAX_TOKENS)
    tokens = with_context(stream, start, len(stream), order, eot_token)
    lower = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    keys, numbers = np.unique(longer_keys(lower, tokens, 0, vocab_size), return_inverse=True)
    levels = []
    for k in range(1, order):
        longer, of_longer = np.unique(
            longer_keys(numbers, tokens, k, vocab_size), return_inverse=True
        )
        occurs = np.bincount(of_longer[1:], minlength=len(longer)) > 0
        complete_prompts = np.bincount(longer[occurs] // vocab_size, minlength=len(keys))
        levels.append(discounted(keys, complete_prompts, numbers, lower))
        keys, numbers, lower = longer, of_longer, numbers
    occurrences = np.bincount(numbers[1:], minlength=len(keys))
    levels.append(discounted(keys, occurrences, numbers, lower))
    return KneserNey(levels=levels, vocab_size=vocab_size, eot_token=eot_token)


def with_context(stream: TokenStream, start: int, stop: int, order: int, eot_token: int) -> Numbers:
    """Read tokens [start - order, stop), with separators for those before the first."""
    first = max(start - order, 0)
    lead = np.full(first - start + order, eot_token, dtype=np.int64)
    return np.concatenate((lead, stream.read(first, stop)))


def longer_keys(numbers: Numbers, tokens: Numbers, k: int, vocab_size: int) -> Numbers:
    """Return the keys (1 + T,) of the n-grams of k + 1 tokens that end where those of k tokens do.

    `numbers` (1 + T,) are of the latter, at the token before the first of T and at each of them;
    `tokens` end with the T.
    """
    stop = len(tokens) - k
    return numbers * vocab_size + tokens[stop - len(numbers) : stop]


def look_up(keys: Numbers, wanted: Numbers) -> Numbers:
    """Return the place of each wanted key in keys (n,), ascending; n for what is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, len(keys))


def discounted(keys: Numbers, counts: Numbers, numbers: Numbers, lower: Numbers) -> Level:
    """Return the level of n-grams that have these keys (n,) and counts c (n,).

    `numbers` and `lower` (1 + T,) name the n-gram of this order and of the one below that end at
    each place. The first place, before the text, is a context only: its n-gram may have count 0.
    """
    contexts = np.zeros_like(keys)
    contexts[numbers[1:]] = lower[:-1]
    discounts = estimate_discounts(np.bincount(counts, minlength=5)[1:5])[np.minimum(counts, 3)]
    size = int(lower.max()) + 2
    totals = np.bincount(contexts, counts, minlength=size)
    taken = np.bincount(contexts, discounts, minlength=size)
    gammas = np.where(totals > 0, taken / np.maximum(totals, 1), 1.0)
    shares = (counts - discounts) / np.maximum(totals[contexts], 1)
    return Level(keys=keys, shares=np.append(shares, 0.0), gammas=gammas)


def estimate_discounts(n: Numbers) -> Floats:
    """Return D (4,) for counts of 0, 1, 2 and more, from n (4,), how many n-grams have 1 to 4.

    Chen and Goodman's equation 26: D_i = i - (i + 1) Y n_{i+1} / n_i, Y = n_1 / (n_1 + 2 n_2).
    Where that is undefined (n_1, n_2 or n_3 is 0) or outside [0, i], as it is for little text and
    for small vocabularies, the order takes 0.5, 1 and 1.5, as KenLM does (--discount_fallback).
    """
    if not n[:3].all():
        return np.array(FALLBACK)
    i = np.arange(1, 4)
    discounts = i - (i + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
    possible = (discounts >= 0) & (discounts <= i)
    return np.array([0.0, *discounts]) if possible.all() else np.array(FALLBACK)
