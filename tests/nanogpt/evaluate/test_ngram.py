"""Counting predictors against brute force, over several shards and many chunks."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from nanogpt.data.stream import TokenStream
from nanogpt.evaluate import ngram

V, SEPARATOR = 12, 11


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that end inside of shards, and shards inside of chunks."""
    monkeypatch.setattr(ngram, "CHUNK_TOKENS", 7)


def documents(n_tokens: int, seed: int) -> list[int]:
    """Skewed random tokens, a separator now and then and, as in every split, at the end."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.geometric(0.3, n_tokens) - 1, SEPARATOR)
    tokens[::17] = SEPARATOR
    tokens[-1] = SEPARATOR
    return tokens.tolist()


def in_shards(tokens: Sequence[int], size: int) -> TokenStream:
    """A stream of shards of `size` tokens."""
    cuts = range(0, len(tokens), size)
    return TokenStream([np.array(tokens[i : i + size], dtype=np.uint16) for i in cuts])


TRAIN = documents(300, seed=0)
VAL = documents(90, seed=1)[:-2]  # validation may end anywhere


def bigram(train: TokenStream, val: TokenStream) -> float:
    """The loss with counts of the same training stream."""
    return ngram.bigram_loss(ngram.count_tokens(train, V), train, val, SEPARATOR)


def test_uniform_is_the_log_of_the_vocabulary() -> None:
    assert ngram.uniform_loss(V) == math.log(12)


def test_unigram_equals_brute_force() -> None:
    counts = Counter(TRAIN)
    losses = [-math.log((counts[token] + 1) / (len(TRAIN) + V)) for token in VAL]
    result = ngram.unigram_loss(ngram.count_tokens(in_shards(TRAIN, 23), V), in_shards(VAL, 10))
    assert result == pytest.approx(np.mean(losses), rel=1e-12)


def bigram_by_hand(m: float) -> float:
    """Mean loss of (c(h,w) + m p(w)) / (c(h) + m), both streams opened by a separator."""
    pairs = Counter(zip([SEPARATOR, *TRAIN], TRAIN, strict=False))
    contexts, tokens = Counter([SEPARATOR, *TRAIN[:-1]]), Counter(TRAIN)
    losses = []
    for h, w in zip([SEPARATOR, *VAL], VAL, strict=False):
        prior = (tokens[w] + 1) / (len(TRAIN) + V)
        losses.append(-math.log((pairs[h, w] + m * prior) / (contexts[h] + m)))
    return float(np.mean(losses))


def test_bigram_equals_brute_force() -> None:
    expected = min(bigram_by_hand(2.0**k) for k in range(-4, 21))
    result = bigram(in_shards(TRAIN, 23), in_shards(VAL, 10))
    assert result == pytest.approx(expected, rel=1e-12)


def test_bigram_knows_a_cycle_and_unigram_does_not() -> None:
    cycle = [*range(10), SEPARATOR] * 30
    train, val = in_shards(cycle, 40), in_shards(cycle[:110], 40)
    assert bigram(train, val) < 0.01
    assert ngram.unigram_loss(ngram.count_tokens(train, V), val) == pytest.approx(
        math.log(11), abs=0.02
    )


def test_pairs_never_seen_in_training_cost_but_are_possible() -> None:
    train, val = in_shards([1, 2, SEPARATOR] * 5, 4), in_shards([2, 1, 5, SEPARATOR], 4)
    assert math.log(2) < bigram(train, val) < 10
