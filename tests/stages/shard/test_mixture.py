from fractions import Fraction

import numpy as np
import pytest

from stages.lib.text_hash import hash_rows, text_hash
from stages.shard.mixture import corpus_repeats, document_copies

MANY = hash_rows(text_hash(str(n).encode()) for n in range(5_000))


@pytest.mark.parametrize(
    ("tokens", "weights", "max_repetition", "expected"),
    [
        ({"a": 100, "b": 1000}, {"a": 0.5, "b": 0.5}, 4, {"a": 4, "b": Fraction(2, 5)}),
        ({"a": 100, "b": 1000}, {"a": 1.0, "b": 10.0}, 1, {"a": 1, "b": 1}),
        ({"a": 100, "b": 1000}, {"a": 1.0, "b": 99.0}, 2, {"a": Fraction(20, 99), "b": 2}),
        ({"a": 7}, {"a": 0.1}, 3, {"a": 3}),
    ],
)
def test_the_scarcest_corpus_is_repeated_most(
    tokens: dict[str, int],
    weights: dict[str, float],
    max_repetition: int,
    expected: dict[str, Fraction],
) -> None:
    assert corpus_repeats(tokens, weights, max_repetition) == expected


@pytest.mark.parametrize("repeats", [Fraction(0), Fraction(1), Fraction(4)])
def test_an_integer_repeats_every_document_equally(repeats: Fraction) -> None:
    assert set(document_copies(MANY, repeats, 1).tolist()) == {int(repeats)}


def test_a_fraction_repeats_that_share_of_the_documents() -> None:
    copies = document_copies(MANY, Fraction(9, 4), 1)
    assert copies.dtype == np.uint8
    assert set(copies.tolist()) == {2, 3}
    spread = (len(MANY) * 3 / 16) ** 0.5  # of a binomial
    assert abs((copies == 3).sum() - len(MANY) / 4) < 4 * spread


def test_more_repeats_only_add_copies() -> None:
    few, many = (document_copies(MANY, Fraction(n, 10), 1) for n in (13, 17))
    assert (few <= many).all()
    assert few.sum() < many.sum()


def test_another_seed_chooses_others() -> None:
    one, other = (document_copies(MANY, Fraction(1, 2), seed) for seed in (1, 2))
    assert 0.45 < (one == other).mean() < 0.55
