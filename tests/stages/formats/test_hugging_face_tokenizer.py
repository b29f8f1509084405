"""Our tokenizers in Hugging Face's format give the same tokens for every text."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import Tokenizer as FastTokenizer

from stages.formats.hugging_face_tokenizer import fast_tokenizer, last_merge, save_fast_tokenizer
from stages.tokenize.learned import train_bpe
from stages.tokenizers.gpt2 import ranks_from_merges
from stages.tokenizers.pretokenize import BPE_PATTERN
from stages.tokenizers.tokenizer import (
    SEPARATOR,
    BpeTokenizer,
    CharTokenizer,
    Tokenizer,
    parse_ranks,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast  # importing takes seconds

ROOT = Path(__file__).parents[3]
PIECES = [
    *("'s", "'S", "'ſ", "'LL", "\t's", "don't", "I'VE", " the", "king", "aaaaa", "ababcabcab"),
    *("\r\n", "\n\n", "   ", " \n ", "\u2028", "\u00a0", "\x00", "\x85", "12345", "²³", "٣"),
    *("é", "e\u0301", "ﬀ", "İ", "ß", "Ġ", "▁", "👩‍👩‍👧", "漢字", "नमस्ते", "<|", "|>", "endoftext"),
]
PLAIN = st.lists(st.text(max_size=6) | st.sampled_from(PIECES), max_size=8).map("".join)
TEXTS = st.lists(PLAIN | st.just(SEPARATOR), max_size=3).map("".join)
KINDS = ["gpt2", "bpe", "greedy", "bytes"]

fuzzed = settings(max_examples=40, deadline=None)

Pair = tuple[Tokenizer, "PreTrainedTokenizerFast"]


@pytest.fixture(scope="session")
def pairs(gpt2_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Return our tokenizers, each with the one that transformers loads from its files."""
    from transformers import AutoTokenizer

    documents = [file.read_text(encoding="utf-8") for file in (ROOT / "docs").rglob("*.md")]
    runs = "aa aaaa aaaaaaaa abab ababab abcabcabc bcbcbc cabcab " * 9  # merges overlap in these
    ours = {
        "gpt2": BpeTokenizer.of(r50k_pat_str, parse_ranks(gpt2_file.read_bytes())),
        "bpe": train_bpe(documents, 1000),
        "greedy": train_bpe([runs], 270),
        "bytes": BpeTokenizer.of(r"[\s\S]", {bytes([b]): b for b in range(256)}),
    }
    made = {}
    for name, tokenizer in ours.items():
        folder = tmp_path_factory.mktemp(name)
        save_fast_tokenizer(folder, tokenizer, block_size=64)
        made[name] = (tokenizer, AutoTokenizer.from_pretrained(folder))
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@fuzzed
def test_tokens_are_the_same_for_every_text(kind: str, text: str, pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs[kind]
    ids = ours.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_same_for_real_text(kind: str, pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs[kind]
    theirs.model_max_length = 1 << 40
    for file in [*ROOT.glob("stages/t*.py"), *ROOT.glob("*.md")]:
        text = file.read_text(encoding="utf-8")
        assert theirs(text)["input_ids"] == ours.encode(text).tolist(), file.name


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_text_token_is_the_last_id_and_special(
    kind: str, pairs: dict[str, Pair]
) -> None:
    ours, theirs = pairs[kind]
    assert len(theirs) == ours.n_vocab
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.eot_token, ours.eot_token)
    king = ours.encode("king").tolist()
    assert theirs.decode([ours.eot_token, *king]) == f"{SEPARATOR}king"
    assert theirs.decode([ours.eot_token, *king], skip_special_tokens=True) == "king"


@given(text=PLAIN.filter(bool))
@fuzzed
def test_characters_keep_their_ids_and_decode_to_themselves(text: str) -> None:
    ours = CharTokenizer("".join(sorted(set(text))))
    theirs = fast_tokenizer(ours)
    ids = ours.encode(text).tolist()
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text
    assert theirs.token_to_id(SEPARATOR) == ours.eot_token


def test_transformers_loads_a_char_tokenizer_which_refuses_unknown_characters(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    text = "".join(sorted(set("to be, or not\nto be <|endoftext|>")))
    ours = CharTokenizer(text)
    save_fast_tokenizer(tmp_path, ours, block_size=64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    sentence = "not to be,\n <|endoftext|>"
    assert theirs(sentence)["input_ids"] == ours.encode(sentence).tolist()
    assert theirs.decode(theirs(sentence)["input_ids"]) == sentence
    with pytest.raises(Exception, match="WordLevel error"):  # the library has no other class
        FastTokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("Z")


def test_merges_are_recovered_from_ranks() -> None:
    merges = ["Ġ t", "h e", "Ġt he", "i n", "in g", "a a", "aa a", "Ġ a"]
    ranks = ranks_from_merges("\n".join(["#version: 0.2", *merges, ""]))
    found = [last_merge(token, ranks) for token, rank in ranks.items() if rank >= 256]
    written = [f"{a.decode()} {b.decode()}".replace(" ", "Ġ", a[:1] == b" ") for a, b in found]
    assert written == merges


def test_ranks_that_no_merges_lead_to_are_refused() -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b"abc": 256, b"ab": 257}
    with pytest.raises(ValueError, match=r"not a BPE tokenizer: no merge produces b'abc'"):
        fast_tokenizer(BpeTokenizer.of(BPE_PATTERN, ranks))
