"""Byte pairs are learned from all of a text, and no run of characters is too long for it."""

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from stages.tokenize import learned
from stages.tokenize.learned import PIECE_BYTES, learned_ranks, trained_bpe, with_short_pieces
from stages.tokenizers.pretokenize import BPE_PATTERN, Splitter

ROOT = Path(__file__).parents[3]
RUNS = st.builds(
    lambda unit, times: unit * times,
    st.sampled_from(
        ["a", "é", "漢", " ", "\n", " \n", "\t", "\u3000", "\x1c", ".", "1", "🙂", "'s", "b "]
    ),
    st.integers(1, 30),
)
TEXTS = st.lists(RUNS, max_size=12).map("".join)


@pytest.fixture(scope="module")
def splitter() -> Splitter:
    return Splitter(BPE_PATTERN)


def ends(text: str) -> list[int]:
    """Where each piece of a text ends, by a third engine for regular expressions."""
    pieces = pre_tokenizers.Split(Regex(BPE_PATTERN), "isolated").pre_tokenize_str(text)
    return list(accumulate(len(piece.encode()) for piece, _ in pieces))


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_only_what_is_inside_a_long_piece_is_cut(text: str, splitter: Splitter) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "PIECE_BYTES", 32)
        strings = list(with_short_pieces(text, splitter))
    assert "".join(strings) == text
    starts = accumulate((len(string.encode()) for string in strings[:-1]), initial=0)
    found = [
        start + end for start, string in zip(starts, strings, strict=True) for end in ends(string)
    ]
    right = ends(text)
    assert max((b - a for a, b in zip([0, *found], found, strict=False)), default=0) <= 32
    inside = [range(a + 1, b) for a, b in zip([0, *right], right, strict=False) if b - a > 32]
    assert sorted(set(found) - {end for piece in inside for end in piece}) == right


def test_texts_of_words_are_read_as_they_are(splitter: Splitter) -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("docs/**/*.md"))]
    texts += [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("stages/*.py"))]
    texts.append("=" * (PIECE_BYTES - 1) + "\n" + " " * PIECE_BYTES + "漢" * (PIECE_BYTES // 3))
    assert sum(map(len, texts)) > 300_000
    for text in texts:
        assert list(with_short_pieces(text, splitter)) == [text]


@pytest.mark.parametrize(
    "unit", [" ", "\t", "\xa0", "\u3000", "\n", " \n", "\r\n", "x", "漢", "\u0301", "7", ".", "'"]
)
def test_a_run_of_any_length_is_learned_from(unit: str) -> None:
    """At a million white spaces rustbpe alone panics, with no Exception."""
    text = "Name" + unit * (1_200_000 // len(unit)) + "Amount, Name, Amount"
    found = trained_bpe([text, "Name"], 258)
    assert found.n_vocab == 258
    assert found.decode(found.encode(text[-2000:]).tolist()) == text[-2000:]


def test_a_run_is_learned_from_in_parts() -> None:
    longest = max(map(len, learned_ranks(["A" * 100_000], 1000)))
    assert longest == PIECE_BYTES
