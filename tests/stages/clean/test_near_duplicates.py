import random
from itertools import pairwise

import numpy as np
import pytest

from stages.clean.near_duplicates import (
    NUM_PERM,
    SHINGLE_WORDS,
    minhash_signatures,
    near_duplicates,
)
from stages.lib import word_ngrams


def text_of(seed: int, count: int = 200) -> list[str]:
    """Words of no other text."""
    draw = random.Random(seed)
    return [f"{draw.randrange(10**6)}s{seed}" for _ in range(count)]


def changed(words: list[str], share: float, seed: int) -> list[str]:
    """The same words up to a place, then others: a share of the runs of words is common."""
    common = round(len(words) * share)
    return words[:common] + text_of(10_000 + seed, len(words) - common)


def jaccard(one: list[str], other: list[str]) -> float:
    """The true similarity."""
    a, b = (
        {tuple(t[i : i + SHINGLE_WORDS]) for i in range(len(t) - SHINGLE_WORDS + 1)}
        for t in (one, other)
    )
    return len(a & b) / len(a | b)


def near(texts: list[list[str]], threshold: float, *without: int) -> list[bool]:
    among = np.array([n not in without for n in range(len(texts))])
    signed = minhash_signatures((" ".join(words) for words in texts), len(texts))
    return [bool(found) for found in near_duplicates(signed, threshold, among)]


def test_signatures_estimate_the_similarity() -> None:
    for share in (0.3, 0.6, 0.9):
        one = text_of(0, 1_000)
        other = changed(one, share, 0)
        a, b = minhash_signatures([" ".join(one), " ".join(other)], 2)
        assert abs(float((a == b).mean()) - jaccard(one, other)) < 4 * 0.5 / NUM_PERM**0.5


def test_a_signature_is_of_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(text_of(n, 10 + 90 * n)) for n in range(6)]
    together = minhash_signatures(texts, 6)
    monkeypatch.setattr(word_ngrams, "PIECE", 300)  # long texts come in several batches
    for n, text in enumerate(texts):
        assert (minhash_signatures([text], 1)[0] == together[n]).all()


def test_what_is_similar_enough_goes_and_what_is_not_stays() -> None:
    similar = [changed(text_of(n), 0.98, n) for n in range(20)]
    less = [changed(text_of(n), 0.7, n) for n in range(20, 40)]  # a Jaccard similarity of 0.54
    texts = [*(text_of(n) for n in range(40)), *similar, *less]
    assert near(texts, 0.8) == [False] * 40 + [True] * 20 + [False] * 20


def test_each_that_goes_is_near_an_earlier_one_that_stays() -> None:
    texts = [text_of(0)]
    for n in range(60):
        texts.append(changed(texts[-1], 0.96 if n % 4 else 0.5, n)[-200:])
    found = near(texts, 0.8)
    assert True in found
    assert found.count(False) > 10
    for n, gone in enumerate(found):
        kept = [i for i in range(n) if not found[i]]
        if gone:
            assert max(jaccard(texts[n], texts[i]) for i in kept) > 0.65  # estimated as 0.8


def test_a_chain_does_not_fall_with_its_first_link() -> None:
    """Near what is dropped is not near what is kept."""
    first = text_of(0, 1_000)
    second = first[:940] + text_of(1, 60)
    third = first[:820] + text_of(2, 180)
    similar = [jaccard(a, b) for a, b in pairwise([first, second, third])]
    assert similar[0] > 0.85
    assert near([first, second, second], 0.8) == [False, True, True]
    assert jaccard(first, third) < 0.72
    assert near([first, second, third], 0.8) == [False, True, False]


def test_those_dropped_before_are_neither_found_nor_compared_with() -> None:
    text = text_of(0)
    assert near([text, text, text], 0.8) == [False, True, True]
    assert near([text, text, text], 0.8, 0) == [False, False, True]
    assert near([text, text, text], 0.8, 1) == [False, False, True]


def test_texts_too_short_to_compare_stay() -> None:
    assert near([["a", "b", "c", "d"]] * 3 + [[]] * 2, 0.5) == [False] * 5
    assert near([["a", "b", "c", "d", "e"]] * 2, 0.5) == [False, True]


def test_nothing_is_no_error() -> None:
    assert near([], 0.8) == []
    assert near([text_of(0)], 0.8, 0) == [False]
