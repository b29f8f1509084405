import base64
import json
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from stages.artifacts.clean import CleanCorpus
from stages.lib.split import SplitParams
from stages.tokenize.learned import train_bpe
from stages.tokenize.params import TokenizeParams
from stages.tokenize.stage import make_tokenizer
from stages.tokenizers.tokenizer import (
    SEPARATOR,
    TIKTOKEN_CHARACTERS,
    BpeTokenizer,
    CharTokenizer,
    Tokenizer,
    fingerprint,
    format_ranks,
    load_tokenizer,
    parse_ranks,
    save_tokenizer,
)
from stages.tokenizers.tokens import token_dtype

PIECES = [SEPARATOR, "<|", "'s", "\t's", "\r\n", "   ", "12345", "the king", "\x00", "é", "👩‍👩‍👧"]
TEXTS = st.lists(st.text() | st.sampled_from(PIECES), max_size=8).map("".join)
NO_CORPUS = CleanCorpus(corpus=Path("none"), folder=Path("none"), manifest={})
SENTENCES = [f"the king and queen of land number {n} did walk by night. " * 3 for n in range(20)]

fuzzed = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="session")
def gpt2(gpt2_file: Path) -> BpeTokenizer:
    return BpeTokenizer.of(r50k_pat_str, parse_ranks(gpt2_file.read_bytes()))


@pytest.fixture(scope="session")
def bpe() -> BpeTokenizer:
    return train_bpe(SENTENCES, 300)


@pytest.fixture(scope="session")
def raw_bytes() -> Tokenizer:
    params = TokenizeParams(tokenizer="bytes", vocab_size=None, engine="tiktoken")
    return make_tokenizer(params, SplitParams(val_fraction=0.1, seed=1), NO_CORPUS)


def alphabet(text: str) -> CharTokenizer:
    return CharTokenizer("".join(sorted(set(text))))


@given(text=TEXTS.filter(bool))
@fuzzed
def test_char_round_trips_every_text_with_one_token_per_character(text: str) -> None:
    tokenizer = alphabet(text)
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert tokenizer.eot_token == tokenizer.n_vocab - 1
    assert tokens.max() < tokenizer.eot_token
    assert tokenizer.decode(tokens.tolist()) == text


@given(text=TEXTS.filter(bool))
@fuzzed
def test_pieces_are_the_bytes_of_each_token(text: str, bpe: BpeTokenizer) -> None:
    for tokenizer in (alphabet(text), bpe):
        assert len(tokenizer.pieces) == tokenizer.eot_token
        tokens = tokenizer.encode(text).tolist()
        assert b"".join(tokenizer.pieces[token] for token in tokens) == text.encode()


@given(text=TEXTS)
@fuzzed
def test_bytes_round_trips_every_text_with_one_token_per_byte(
    text: str, raw_bytes: Tokenizer
) -> None:
    tokens = raw_bytes.encode(text)
    assert tokens.tolist() == list(text.encode())
    assert raw_bytes.decode(tokens.tolist()) == text


@given(text=TEXTS)
@fuzzed
def test_bpe_round_trips_every_text_without_an_end_of_text_token(
    text: str, bpe: BpeTokenizer
) -> None:
    tokens = bpe.encode(text).tolist()
    assert bpe.eot_token not in tokens
    assert bpe.decode(tokens) == text


@given(text=TEXTS)
@fuzzed
def test_gpt2_agrees_with_tiktoken_and_round_trips_every_text(
    text: str, gpt2: BpeTokenizer, reference: tiktoken.Encoding
) -> None:
    tokens = gpt2.encode(text).tolist()
    assert tokens == reference.encode_ordinary(text)
    assert gpt2.decode(tokens) == text


@pytest.fixture(scope="session")
def reference(gpt2_file: Path) -> tiktoken.Encoding:
    """Return GPT-2's encoding as tiktoken defines it."""
    pairs = [line.split() for line in gpt2_file.read_bytes().splitlines()]
    return tiktoken.Encoding(
        "gpt2",
        explicit_n_vocab=50257,
        pat_str=r50k_pat_str,
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in pairs},
        special_tokens={SEPARATOR: 50256},
    )


@pytest.mark.parametrize(
    ("text", "tokens"), [("Hello world", [15496, 995]), (" hello", [23748]), ("hello", [31373])]
)
def test_gpt2_gives_the_published_tokens(gpt2: BpeTokenizer, text: str, tokens: list[int]) -> None:
    assert gpt2.encode(text).tolist() == tokens


def test_gpt2_has_its_size_and_end_of_text_token(gpt2: BpeTokenizer) -> None:
    assert (gpt2.n_vocab, gpt2.eot_token) == (50257, 50256)


@pytest.mark.parametrize("name", ["gpt2", "bpe", "raw_bytes", "char"])
def test_an_end_of_text_token_inside_a_text_is_ordinary_text(
    name: str, request: pytest.FixtureRequest
) -> None:
    text = f"before {SEPARATOR}{SEPARATOR} after"
    tokenizer = alphabet(text) if name == "char" else request.getfixturevalue(name)
    tokens = tokenizer.encode(text).tolist()
    assert tokenizer.eot_token not in tokens
    assert tokenizer.decode(tokens) == text


@pytest.mark.parametrize("name", ["gpt2", "bpe", "raw_bytes", "char"])
def test_a_saved_tokenizer_is_the_same_again(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    text = "the king's 2,000 \r\n\u2028 naïve men \x00\ufeff"
    tokenizer = alphabet(text) if name == "char" else request.getfixturevalue(name)
    save_tokenizer(tmp_path / "new" / "tokenizer", tokenizer)
    loaded = load_tokenizer(tmp_path / "new" / "tokenizer")
    assert fingerprint(loaded) == fingerprint(tokenizer)
    assert (loaded.n_vocab, loaded.eot_token) == (tokenizer.n_vocab, tokenizer.eot_token)
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.decode([0, loaded.eot_token]) == tokenizer.decode([0, loaded.eot_token])


def test_different_tokenizers_have_different_fingerprints(
    gpt2: BpeTokenizer, bpe: BpeTokenizer, raw_bytes: Tokenizer
) -> None:
    other_pattern = BpeTokenizer.of(r50k_pat_str, bpe.ranks)
    tokenizers = [gpt2, bpe, other_pattern, raw_bytes, alphabet("abc"), alphabet("abd")]
    assert len({fingerprint(tokenizer) for tokenizer in tokenizers}) == len(tokenizers)


def test_training_again_gives_the_same_tokenizer(bpe: BpeTokenizer) -> None:
    assert fingerprint(train_bpe(SENTENCES, 300)) == fingerprint(bpe)


def test_a_trained_bpe_has_the_size_asked_for_and_shortens_its_own_text(bpe: BpeTokenizer) -> None:
    assert (bpe.n_vocab, bpe.eot_token) == (300, 299)
    assert len(bpe.encode(SENTENCES[0])) < len(SENTENCES[0].encode()) / 2


RUNS = [*" \t\xa0\u3000\n漢\u03017.'", "\r\n", " \n", " \t", "ACGT", "a1", "x "]


@pytest.mark.parametrize("unit", RUNS)
@pytest.mark.parametrize("name", ["gpt2", "bpe"])
def test_a_long_text_has_the_tokens_of_tiktoken_where_tiktoken_can_encode_it(
    name: str, unit: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: BpeTokenizer = request.getfixturevalue(name)
    for end in ("Amount", "1", "'s", ""):
        text = f"Name{unit * (TIKTOKEN_CHARACTERS // len(unit))}{end}"
        expected = tokenizer.encoding.encode_to_numpy(text, disallowed_special=())
        assert np.array_equal(tokenizer.encode(text), expected), end


@pytest.mark.parametrize("unit", [*" \t\xa0\u3000", " \t"])
@pytest.mark.parametrize("name", ["gpt2", "bpe"])
def test_white_space_of_any_length_is_encoded(
    name: str, unit: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: BpeTokenizer = request.getfixturevalue(name)
    run = unit * (1_010_000 // len(unit))
    with pytest.raises(ValueError, match="Max stack size exceeded"):
        tokenizer.encoding.encode_to_numpy(f"Name{run}1", disallowed_special=())
    whole = tiktoken.Encoding(
        "whole", pat_str=r"[\s\S]+", mergeable_ranks=tokenizer.ranks, special_tokens={}
    )
    last = [" 1"] if (name, unit) == ("gpt2", " ") else [run[-1], "1"]
    expected = [whole.encode_to_numpy(piece) for piece in ("Name", run[:-1], *last)]
    assert np.array_equal(tokenizer.encode(f"Name{run}1"), np.concatenate(expected))


@pytest.mark.parametrize("text", ["abX", "X", "\x00", "\U0010ffff"])
def test_char_refuses_a_character_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match="is not in the vocabulary") as caught:
        alphabet("abc").encode(text)
    assert repr(text[-1]) in str(caught.value)
    assert "`bpe`" in str(caught.value)


def test_char_orders_its_tokens_by_code_point() -> None:
    assert alphabet("b\na😀é").encode("\nabé😀").tolist() == [0, 1, 2, 3, 4]


def test_end_of_text_tokens_show_when_decoded(gpt2: BpeTokenizer, raw_bytes: Tokenizer) -> None:
    for tokenizer in (gpt2, raw_bytes, alphabet("abc")):
        tokens = [*tokenizer.encode("a").tolist(), tokenizer.eot_token]
        assert tokenizer.decode(tokens) == f"a{SEPARATOR}"


def test_an_empty_text_has_no_tokens(bpe: BpeTokenizer) -> None:
    for tokenizer in (bpe, alphabet("abc")):
        assert tokenizer.encode("").tolist() == []


def test_tokens_take_two_bytes_if_the_vocabulary_fits() -> None:
    assert token_dtype(65_536) is np.uint16
    assert token_dtype(65_537) is np.uint32
    assert alphabet("abc").encode("abc").dtype == np.uint16
    large = CharTokenizer("".join(chr(code) for code in range(0x10000, 0x20001)))
    assert large.encode(chr(0x20000)).dtype == np.uint32
    assert large.encode(chr(0x20000)).tolist() == [0x10000]


def test_ranks_are_written_in_order_and_read_back() -> None:
    ranks = {b"b": 1, b"a": 0, b"\xff\n": 2}
    assert format_ranks(ranks) == "YQ== 0\nYg== 1\n/wo= 2\n"
    assert parse_ranks(format_ranks(ranks).encode()) == ranks


def test_another_version_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "t", alphabet("abc"))
    file = tmp_path / "t" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 2}))
    with pytest.raises(ValueError, match="has version 2, not 1"):
        load_tokenizer(tmp_path / "t")
