"""Splitting by arrays gives the pieces of the pattern: the same tokens for any text."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokenize.piece_encoder import PieceEncoder
from stages.tokenizers import pretokenize
from stages.tokenizers.merges import DELIMITER
from stages.tokenizers.pretokenize import BPE_PATTERN, GPT2_PATTERN
from stages.tokenizers.tokenizer import BpeTokenizer, parse_ranks
from stages.tokenizers.tokens import token_dtype

# All that Unicode calls White_Space, and what only some libraries take for it.
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2007\u200a\u2028\u2029\u202f\u205f\u3000"
ALMOST_SPACES = "\x1c\x1f\u180e\u200b\u200d\u2060\ufeff"
CONTRACTIONS = ["'s", "'d", "'m", "'t", "'ll", "'ve", "'re"]
CONTRACTIONS += ["'S", "'ſ", "'lL", "'VE", "'Re", "'K", "'l", "'v", "''"]
OTHERS = [" '", "\u2019s", "\r\n", " \n", "  ", "123", ".\n", "'s'", "..a"]
TEXTS = st.lists(
    st.sampled_from(
        [
            *SPACES,
            *ALMOST_SPACES,
            *CONTRACTIONS,
            *OTHERS,
            *"ab1\u0663²½.'sélrdveſ漢🙂\u0301-",
            DELIMITER,
        ]
    ),
    max_size=30,
).map("".join)

# With a token for every two bytes, the tokens show where pieces are cut.
PAIRS = {bytes([n]): n for n in range(256)} | {
    bytes([n >> 8, n & 255]): 256 + n for n in range(1 << 16)
}


@pytest.fixture(
    scope="module",
    params=[(GPT2_PATTERN, "gpt2"), (BPE_PATTERN, "pairs")],
    ids=["gpt2", "learned"],
)
def tokenizer(gpt2_file: Path, request: pytest.FixtureRequest) -> BpeTokenizer:
    """Return a tokenizer with each of the two patterns."""
    pattern, ranks = request.param
    return BpeTokenizer.of(
        pattern, PAIRS if ranks == "pairs" else parse_ranks(gpt2_file.read_bytes())
    )


@pytest.fixture(scope="module")
def encoder(tokenizer: BpeTokenizer) -> PieceEncoder:
    return PieceEncoder(tokenizer)


def check(encoder: PieceEncoder, tokenizer: BpeTokenizer, *groups: list[str]) -> None:
    """Assert that groups of texts encoded together have the tokens that each text has alone."""
    arrays = [pa.array(texts, pa.large_string()) for texts in groups]
    for texts, encoded in zip(groups, encoder.encode(arrays), strict=True):
        expected = [tokenizer.encode(text) for text in texts]
        assert encoded.offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
        assert encoded.values.tolist() == np.concatenate([[], *expected]).tolist()
        assert encoded.values.dtype == token_dtype(tokenizer.n_vocab)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_texts_have_the_tokens_that_tiktoken_gives_each(
    texts: list[str], encoder: PieceEncoder, tokenizer: BpeTokenizer
) -> None:
    check(encoder, tokenizer, texts)


@given(groups=st.lists(st.lists(TEXTS, max_size=3), max_size=4), window=st.integers(9, 40))
@settings(max_examples=200, deadline=None)
def test_groups_and_windows_do_not_change_the_tokens(
    groups: list[list[str]], window: int, encoder: PieceEncoder, tokenizer: BpeTokenizer
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "WINDOW_BYTES", window)
        check(encoder, tokenizer, *groups)


def test_every_character_has_the_class_it_has_in_tiktoken(
    encoder: PieceEncoder, tokenizer: BpeTokenizer
) -> None:
    every = 1 if tokenizer.pattern == GPT2_PATTERN else 20  # the classes are the same for both
    assigned, rest = range(0, 0x40000, every), range(0x40000, 0x110000, 20)  # planes 4 to 16: few
    characters = [chr(code) for code in (*assigned, *rest) if not 0xD800 <= code < 0xE000]
    step = 4096
    texts = [
        "".join(f"a{c}1{c}.{c}  {c}" for c in characters[first : first + step])
        for first in range(0, len(characters), step)
    ]
    check(encoder, tokenizer, texts)


def test_a_slice_of_an_array_of_texts_is_encoded_by_itself(
    encoder: PieceEncoder, tokenizer: BpeTokenizer
) -> None:
    some = pa.array(["one's", "", "two  ", " three", ""], pa.large_string()).slice(1, 3)
    three = tokenizer.encode(" three").tolist()
    three_texts, first, none = encoder.encode([some, some.slice(0, 1), some.slice(0, 0)])
    assert three_texts.values.tolist() == [*tokenizer.encode("two  ").tolist(), *three]
    n_tokens = len(three_texts.values)
    assert three_texts.offsets.tolist() == [0, 0, n_tokens - len(three), n_tokens]
    assert first.offsets.tolist() == [0, 0]
    assert len(none.values) == 0


def test_a_piece_longer_than_a_window_is_not_split(
    encoder: PieceEncoder, tokenizer: BpeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretokenize, "WINDOW_BYTES", 100)
    check(encoder, tokenizer, ["漢字" * 300 + "!", " " * 999 + "end" + "\u3000" * 500])


def test_no_piece_has_the_delimiter_in_it(encoder: PieceEncoder, tokenizer: BpeTokenizer) -> None:
    check(
        encoder,
        tokenizer,
        [
            DELIMITER,
            DELIMITER * 9,
            f"a{DELIMITER}b",
            "\n",
            "0",
            "\n0",
            "0\n",
            f"{DELIMITER}0{DELIMITER}",
        ],
    )


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_a_long_text_has_the_tokens_of_tiktoken(text: str, tokenizer: BpeTokenizer) -> None:
    assert tokenizer.encode_pieces(text).tolist() == tokenizer.encode(text).tolist()
