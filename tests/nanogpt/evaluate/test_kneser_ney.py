"""Modified Kneser-Ney against the formulas by dictionaries, figures by hand, and what must hold."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from nanogpt.data.stream import TokenStream
from nanogpt.evaluate import kneser_ney
from nanogpt.evaluate.kneser_ney import KneserNey, count, estimate_discounts

V, SEPARATOR = 12, 11
Gram = tuple[int, ...]


def in_shards(tokens: Sequence[int], size: int = 23) -> TokenStream:
    """A stream of shards of `size` tokens."""
    cuts = range(0, len(tokens), size)
    return TokenStream([np.array(tokens[i : i + size], dtype=np.uint32) for i in cuts])


def documents(n_tokens: int, seed: int, *, vocab_size: int = V) -> list[int]:
    """Skewed random tokens, each like one of the two before it, and a separator now and then."""
    rng = np.random.default_rng(seed)
    tokens = [0, 1]
    for new, copied in zip(
        rng.geometric(0.3, n_tokens).tolist(), rng.integers(0, 4, n_tokens).tolist(), strict=True
    ):
        like = (tokens[-1] * 5 + tokens[-2]) % vocab_size
        tokens.append(like if copied else min(new - 1, vocab_size - 1))
    tokens[2::17] = [vocab_size - 1] * len(tokens[2::17])
    return tokens[2:]


class Reference:
    """Modified Kneser-Ney as Chen and Goodman write it, one probability at a time."""

    def __init__(self, tokens: Sequence[int], vocab_size: int, eot_token: int, order: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        led = [eot_token] * order + list(tokens)
        ends = range(order, len(led))
        self.counts = [Counter[Gram]() for _ in range(order + 1)]
        self.counts[order] = Counter(tuple(led[i - order + 1 : i + 1]) for i in ends)
        for k in range(1, order):
            before = {tuple(led[i - k : i + 1]) for i in ends}
            self.counts[k] = Counter(gram[1:] for gram in before)
        self.discounts = [self.estimate(counts) for counts in self.counts]
        self.continuations: dict[Gram, list[int]] = defaultdict(list)
        for counts in self.counts:
            for gram, c in counts.items():
                self.continuations[gram[:-1]].append(c)

    @staticmethod
    def estimate(counts: Counter[Gram]) -> list[float]:
        """Discounts of counts 0, 1, 2 and more."""
        n = Counter(counts.values())
        try:
            y = n[1] / (n[1] + 2 * n[2])
            d = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
        except ZeroDivisionError:
            return [0, 0.5, 1, 1.5]
        return [0, *d] if all(0 <= d[i - 1] <= i for i in (1, 2, 3)) else [0, 0.5, 1, 1.5]

    def p(self, w: int, h: Gram) -> float:
        """Probability of w after h."""
        k = len(h) + 1
        lower = self.p(w, h[1:]) if h else 1 / self.vocab_size
        if not self.continuations[h]:
            return lower
        total = sum(self.continuations[h])
        c = self.counts[k][(*h, w)]
        gamma = sum(self.discounts[k][min(c, 3)] for c in self.continuations[h]) / total
        return max(c - self.discounts[k][min(c, 3)], 0) / total + gamma * lower


def after(model: KneserNey, context: Sequence[int]) -> list[float]:
    """(V,) probabilities of every token after a context of `order` tokens."""
    rows = (np.array([*context, w]) for w in range(model.vocab_size))
    return [model.probabilities(row).item() for row in rows]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("n_tokens", [1, 2, 30, 900])
def test_the_loss_is_that_of_the_formulas(
    order: int, n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kneser_ney, "CHUNK_TOKENS", 7)
    train, val = documents(n_tokens, seed=0), documents(90, seed=1)
    reference = Reference(train, V, SEPARATOR, order)
    led = [SEPARATOR] * order + val
    contexts = (tuple(led[i + 1 : i + order]) for i in range(len(val)))
    expected = [-math.log(reference.p(w, h)) for w, h in zip(val, contexts, strict=True)]
    model = count(in_shards(train), V, SEPARATOR, order=order)
    assert model.loss(in_shards(val, 10)) == pytest.approx(np.mean(expected), rel=1e-12)


def test_estimated_discounts_and_those_of_little_text_are_both_compared() -> None:
    def estimated(n_tokens: int) -> list[bool]:
        reference = Reference(documents(n_tokens, seed=0), V, SEPARATOR, 5)
        return [discounts != [0, 0.5, 1, 1.5] for discounts in reference.discounts[1:]]

    assert any(estimated(900))
    assert not any(estimated(30))


@pytest.mark.parametrize("n_tokens", [2, 900])
def test_probabilities_sum_to_one_in_any_context(n_tokens: int) -> None:
    train = documents(n_tokens, seed=0)
    model = count(in_shards(train), V, SEPARATOR)
    seen = train[5:10] if n_tokens > 9 else [SEPARATOR] * 5
    for context in (seen, [SEPARATOR] * 5, [3, 9, 8, 7, 10], [1, 0, 10, 10, 10], [10] * 5):
        assert sum(after(model, context)) == pytest.approx(1, abs=1e-12)
        assert min(after(model, context)) > 0


def test_a_model_of_two_tokens_is_as_computed_by_hand() -> None:
    a, b, eot_token = 0, 1, 2
    model = count(in_shards([a, b, a, a]), 3, eot_token, order=2)
    # Too little text to estimate discounts: 0.5, 1 and 1.5.
    # Bigrams: (sep a) 1, (a b) 1, (b a) 1, (a a) 1. Before a are sep, b and a: 3; before b: a: 1.
    # p(a) = (3 - 1.5)/4 + (1.5 + 0.5)/4 * 1/3 = 13/24, p(b) = 0.5/4 + 1/6 = 7/24, p(sep) = 1/6
    # p(.|a) = (c - 0.5)/2 + (0.5 + 0.5)/2 * p(.); p(.|b) = (c - 0.5)/1 + 0.5 * p(.)
    unigrams, aa, ba = np.array([13, 7, 4]) / 24, np.array([0.5, 0.5, 0]), np.array([1, 0, 0])
    assert after(model, [0, a]) == pytest.approx((unigrams + aa) / 2)
    assert after(model, [0, b]) == pytest.approx((unigrams + ba) / 2)
    assert after(model, [0, eot_token]) == pytest.approx((unigrams + ba) / 2)


def test_discounts_are_equation_26() -> None:
    # Y = 10 / (10 + 2 * 5) = 1/2; 1 - 2 Y 5/10, 2 - 3 Y 3/5, 3 - 4 Y 2/3
    assert estimate_discounts(np.array([10, 5, 3, 2])).tolist() == pytest.approx(
        [0, 1 / 2, 11 / 10, 5 / 3]
    )
    assert estimate_discounts(np.array([10, 5, 3, 0])).tolist() == pytest.approx([0, 0.5, 1.1, 3])


@pytest.mark.parametrize(
    "n", [(0, 5, 3, 2), (9, 0, 3, 2), (9, 5, 0, 2), (10, 1, 9, 9), (9, 5, 1, 9)]
)
def test_discounts_that_cannot_be_are_those_of_kenlm(n: tuple[int, ...]) -> None:
    assert estimate_discounts(np.array(n)).tolist() == [0, 0.5, 1, 1.5]


def test_after_a_context_never_seen_the_shorter_one_decides() -> None:
    train = documents(900, seed=0)
    model = count(in_shards(train), V, SEPARATOR)
    known = train[100:103]
    before = {train[i - 1] for i in range(1, 898) if train[i : i + 3] == known}
    seen, (unseen, another, *_) = before.pop(), sorted(set(range(V)) - before)[-3:]
    assert after(model, [0, unseen, *known]) == after(model, [0, another, *known])
    assert after(model, [0, seen, *known]) != after(model, [0, unseen, *known])


def test_a_larger_vocabulary_than_16_bits_hold() -> None:
    size = 1 << 17
    train, val = documents(500, seed=0, vocab_size=size), documents(60, seed=1, vocab_size=size)
    reference = Reference(train, size, size - 1, 5)
    led = [size - 1] * 5 + val
    expected = [-math.log(reference.p(led[i], tuple(led[i - 4 : i]))) for i in range(5, len(led))]
    model = count(in_shards(train), size, size - 1)
    assert model.loss(in_shards(val)) == pytest.approx(np.mean(expected), rel=1e-12)


def test_of_a_long_text_the_most_recent_tokens_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    old, recent = documents(600, seed=2), documents(300, seed=0)
    train, val = in_shards([*old, *[SEPARATOR] * 5, *recent]), in_shards(documents(90, seed=1))
    everything = count(train, V, SEPARATOR).loss(val)
    monkeypatch.setattr(kneser_ney, "MAX_TOKENS", 300)
    assert count(train, V, SEPARATOR).loss(val) == count(in_shards(recent), V, SEPARATOR).loss(val)
    assert count(train, V, SEPARATOR).loss(val) != pytest.approx(everything, abs=1e-3)


def test_a_longer_memory_pays_where_the_text_has_one() -> None:
    cycle = [0, 1, 0, 2, 0, 1, 0, 3] * 40
    train, val = in_shards(cycle), in_shards(cycle[:160])
    unigram, bigram, fourgram = (
        count(train, V, SEPARATOR, order=order).loss(val) for order in (1, 2, 4)
    )
    assert fourgram < 0.2 < 0.5 < bigram < 1 < unigram
