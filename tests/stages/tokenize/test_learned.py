"""Byte pairs are learned from all of a text, however long a run of characters in it is."""

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from stages.tokenize import learned
from stages.tokenize.learned import PIECE_BYTES, learn_ranks, split_long_pieces, train_bpe
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
    """Return where each piece of a text ends, by a third regular-expression engine."""
    pieces = pre_tokenizers.Split(Regex(BPE_PATTERN), "isolated").pre_tokenize_str(text)
    return list(accumulate(len(piece.encode()) for piece, _ in pieces))


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_only_long_pieces_are_cut(text: str, splitter: Splitter) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "PIECE_BYTES", 32)
        strings = list(split_long_pieces(text, splitter))
    assert "".join(strings) == text
    starts = accumulate((len(string.encode()) for string in strings[:-1]), initial=0)
    actual = [
        start + end for start, string in zip(starts, strings, strict=True) for end in ends(string)
    ]
    expected = ends(text)
    assert max((b - a for a, b in zip([0, *actual], actual, strict=False)), default=0) <= 32
    inside = [range(a + 1, b) for a, b in zip([0, *expected], expected, strict=False) if b - a > 32]
    assert sorted(set(actual) - {end for piece in inside for end in piece}) == expected


def test_texts_of_words_are_not_cut(splitter: Splitter) -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("docs/**/*.md"))]
    texts += [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("stages/**/*.py"))]
    texts.append("=" * (PIECE_BYTES - 1) + "\n" + " " * PIECE_BYTES + "漢" * (PIECE_BYTES // 3))
    assert sum(map(len, texts)) > 300_000
    for text in texts:
        assert list(split_long_pieces(text, splitter)) == [text]


@pytest.mark.parametrize(
    "unit", [" ", "\t", "\xa0", "\u3000", "\n", " \n", "\r\n", "x", "漢", "\u0301", "7", ".", "'"]
)
def test_a_run_of_any_length_is_learned_from(unit: str) -> None:
    """At a million white spaces rustbpe by itself panics without raising an Exception."""
    text = "Name" + unit * (1_200_000 // len(unit)) + "Amount, Name, Amount"
    bpe = train_bpe([text, "Name"], 258)
    assert bpe.n_vocab == 258
    assert bpe.decode(bpe.encode(text[-2000:]).tolist()) == text[-2000:]


def test_a_run_is_learned_from_in_parts() -> None:
    longest = max(map(len, learn_ranks(["A" * 100_000], 1000)))
    assert longest == PIECE_BYTES
