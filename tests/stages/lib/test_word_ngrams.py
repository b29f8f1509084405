import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import word_ngrams
from stages.lib.word_ngrams import ngram_hashes

TEXTS = st.lists(st.text(alphabet="aAbBéÉ ,.\n-'1日", max_size=40), max_size=8)
Gram = tuple[str, ...]


def grams_by_hand(texts: list[str], n: int) -> list[tuple[int, Gram]]:
    """Return (text, n-gram) pairs by regular expressions and tuples."""
    grams = []
    for index, text in enumerate(texts):
        words = re.findall(r"[^\W_]+", text.lower())
        grams += [(index, tuple(words[i : i + n])) for i in range(len(words) - n + 1)]
    return grams


def hashed(texts: list[str], n: int) -> list[tuple[int, int]]:
    """Return (text, hash of an n-gram) pairs by the code under test."""
    batches = list(ngram_hashes(texts, n))
    return [
        (int(owner), int(value))
        for values, owners in batches
        for value, owner in zip(values, owners, strict=True)
    ]


@given(texts=TEXTS, n=st.integers(1, 4))
@settings(deadline=None)  # the first call makes the tables
def test_only_equal_ngrams_have_equal_hashes(texts: list[str], n: int) -> None:
    expected, hashes = grams_by_hand(texts, n), hashed(texts, n)
    assert [owner for owner, _ in hashes] == [owner for owner, _ in expected]
    pairs = set(zip((g for _, g in expected), (h for _, h in hashes), strict=True))
    assert len(pairs) == len({gram for gram, _ in pairs}) == len({value for _, value in pairs})


@pytest.mark.parametrize("piece", [8, 20, 50])
def test_the_size_of_a_piece_does_not_matter(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat sat on the mat " * 5, "", "a b", "and\nthen the dog came in. " * 3]
    expected = hashed(texts, 3)
    monkeypatch.setattr(word_ngrams, "PIECE", piece)
    assert hashed(texts, 3) == expected


def test_a_word_longer_than_a_piece_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ngrams, "PIECE", 10)
    assert len(hashed(["x" * 95], 1)) == 10


@pytest.mark.parametrize(
    ("one", "other"),
    [("The CAT!", "the cat"), ("ÉCOLE", "école"), ("don't", "don t"), ("ΣΟΦΙΑ", "σοφια")],
)
def test_case_and_punctuation_do_not_count(one: str, other: str) -> None:
    assert hashed([one], 1) == hashed([other], 1)


def test_marks_belong_to_their_letter() -> None:
    assert len(hashed(["हिन्दी"], 1)) == 1
    assert len(hashed([unicodedata.normalize("NFD", "déjà")], 1)) == 1


def test_hashes_never_change() -> None:
    assert hashed(["to be or not to be"], 5) == [
        (0, 10016192270287922093),
        (0, 12848701037448257417),
    ]


def test_many_words_have_different_hashes() -> None:
    text = " ".join(map(str, range(200_000)))
    values = np.concatenate([values for values, _ in ngram_hashes([text], 1)])
    assert len(np.unique(values)) == 200_000
