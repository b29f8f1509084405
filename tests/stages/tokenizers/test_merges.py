"""A long piece merged by parts has the ids that tiktoken gives the whole."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokenizers.merges import PART_BYTES, Merger
from stages.tokenizers.tokenizer import parse_ranks

TOKENS = [b"aa", b"ab", b"ba", b"bb", b"aab", b"aba", b"bab", b"bba", b"aaaa", b"abab"]
TOKENS += ["é".encode(), "aé".encode(), b"\xa9a", b"b\xc3"]  # half of a character, too
LONGEST = 4
VOCABULARIES = st.permutations(TOKENS).flatmap(
    lambda tokens: st.integers(0, len(tokens)).map(lambda count: tokens[:count])
)
PIECES = st.one_of(
    st.text("abé", max_size=400),
    st.builds(lambda unit, times: unit * times, st.text("abé", max_size=7), st.integers(0, 60)),
)


@pytest.fixture(scope="module")
def gpt2(gpt2_file: Path) -> Merger:
    return Merger(parse_ranks(gpt2_file.read_bytes()))


def merger_of(tokens: list[bytes], part: int, overlap: int) -> Merger:
    ranks = {bytes([byte]): byte for byte in range(256)}
    merger = Merger(ranks | {token: 256 + n for n, token in enumerate(tokens)})
    merger.part, merger.overlap = part, overlap
    return merger


@given(tokens=VOCABULARIES, piece=PIECES, part=st.integers(20, 80), overlap=st.integers(5, 9))
@settings(max_examples=300, deadline=None)
def test_parts_have_the_ids_of_the_whole_whatever_the_tokens(
    tokens: list[bytes], piece: str, part: int, overlap: int
) -> None:
    assert max(map(len, tokens), default=0) <= LONGEST < overlap
    merger = merger_of(tokens, part, overlap)
    content = piece.encode()
    assert merger.by_parts(content).tolist() == merger.ids_of(content).tolist()


@given(pieces=st.lists(PIECES, max_size=6))
@settings(max_examples=100, deadline=None)
def test_long_and_short_pieces_have_the_ids_they_have_alone(pieces: list[str]) -> None:
    merger = merger_of([b"ab", b"aa", b"ba", b"aab", b"\xc3\xa9"], part=20, overlap=8)
    found = merger.merged([piece.encode() for piece in pieces])
    each = [merger.ids_of(piece.encode()).tolist() for piece in pieces]
    assert found.ends.tolist() == np.cumsum([0, *map(len, each)]).tolist()
    assert found.values.tolist() == [token for ids in each for token in ids]


@pytest.mark.parametrize(
    "unit",
    [
        "ACGT",
        "A",
        " ",
        "\t",
        "\xa0",
        "\u3000",
        "=",
        "漢字",
        "abcdefghij",
        "\U0001f600",
        "0123456789",
    ],
)
def test_a_long_piece_is_never_given_to_tiktoken_whole(
    unit: str, gpt2: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    piece = "".join(rng.choices(unit, k=20 * PART_BYTES)).encode()
    right = gpt2.ids_of(piece)
    sizes: list[int] = []
    ids_of: Callable[[bytes], np.ndarray] = gpt2.ids_of
    monkeypatch.setattr(gpt2, "ids_of", lambda part: (sizes.append(len(part)), ids_of(part))[1])
    assert np.array_equal(gpt2.merged([piece]).values, right)
    assert max(sizes) <= gpt2.part
    assert sum(sizes) < 1.5 * len(piece)
