"""A long piece encoded in parts has the tokens that tiktoken gives it at once."""

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
TOKENS += ["é".encode(), "aé".encode(), b"\xa9a", b"b\xc3"]  # tokens with half of a character, too
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
    merger.part_bytes, merger.overlap_bytes = part, overlap
    return merger


@given(tokens=VOCABULARIES, piece=PIECES, part=st.integers(20, 80), overlap=st.integers(5, 9))
@settings(max_examples=300, deadline=None)
def test_parts_have_the_tokens_of_the_whole_for_any_vocabulary(
    tokens: list[bytes], piece: str, part: int, overlap: int
) -> None:
    assert max(map(len, tokens), default=0) <= LONGEST < overlap
    merger = merger_of(tokens, part, overlap)
    content = piece.encode()
    assert merger.encode_in_parts(content).tolist() == merger.encode_piece(content).tolist()


@given(pieces=st.lists(PIECES, max_size=6))
@settings(max_examples=100, deadline=None)
def test_long_and_short_pieces_have_the_tokens_they_have_alone(pieces: list[str]) -> None:
    merger = merger_of([b"ab", b"aa", b"ba", b"aab", b"\xc3\xa9"], part=20, overlap=8)
    encoded = merger.encode([piece.encode() for piece in pieces])
    expected = [merger.encode_piece(piece.encode()).tolist() for piece in pieces]
    assert encoded.offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert encoded.values.tolist() == [token for tokens in expected for token in tokens]


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
def test_a_long_piece_is_never_passed_to_tiktoken_whole(
    unit: str, gpt2: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    piece = "".join(rng.choices(unit, k=20 * PART_BYTES)).encode()
    expected = gpt2.encode_piece(piece)
    sizes: list[int] = []
    encode_piece: Callable[[bytes], np.ndarray] = gpt2.encode_piece

    def record_size(part: bytes) -> np.ndarray:
        sizes.append(len(part))
        return encode_piece(part)

    monkeypatch.setattr(gpt2, "encode_piece", record_size)
    assert np.array_equal(gpt2.encode([piece]).values, expected)
    assert max(sizes) <= gpt2.part_bytes
    assert sum(sizes) < 1.5 * len(piece)
