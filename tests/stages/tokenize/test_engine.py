"""Every engine gives tiktoken's tokens or is refused."""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from stages.artifacts.clean import GROUP_BYTES, CleanCorpus
from stages.lib.split import SplitParams
from stages.tokenize import stage as tokenize
from stages.tokenize.engine import (
    ADVERSARIAL,
    Encoder,
    adversarial,
    assert_same_tokens,
    load_encoder,
    sample_documents,
)
from stages.tokenize.params import TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenizers.pretokenize import BPE_PATTERN
from stages.tokenizers.tokenizer import (
    SEPARATOR,
    BpeTokenizer,
    Tokenizer,
    load_tokenizer,
    parse_ranks,
    save_tokenizer,
)

MakeParts = Callable[[list[list[str]], Path], CleanCorpus]

TEXTS = st.lists(st.text(max_size=6) | st.sampled_from(ADVERSARIAL), max_size=8).map("".join)
SPLIT = SplitParams(val_fraction=0.4, seed=1)


@pytest.fixture(scope="module")
def gpt2(gpt2_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of GPT-2's tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2") / "tokenizer"
    save_tokenizer(folder, BpeTokenizer.of(r50k_pat_str, parse_ranks(gpt2_file.read_bytes())))
    return folder


@pytest.fixture(scope="module", params=["tiktoken", "gigatoken"])
def encoder(gpt2: Path, request: pytest.FixtureRequest) -> Encoder:
    return load_encoder(gpt2, request.param)


@pytest.fixture(scope="module")
def reference(gpt2: Path) -> Tokenizer:
    """Return the tokenizer that calls tiktoken for each text."""
    return load_tokenizer(gpt2)


def encoded(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, all encoded at once."""
    (group,) = encoder.encode([pa.array(texts, pa.large_string())])
    assert len(group.offsets) == len(texts) + 1
    assert group.offsets[-1] == len(group.values)
    return [tokens.tolist() for tokens in np.split(group.values, group.offsets[1:-1])]


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_engine_gives_the_tokens_of_tiktoken(
    texts: list[str], encoder: Encoder, reference: Tokenizer
) -> None:
    assert encoded(encoder, texts) == [reference.encode(text).tolist() for text in texts]


def test_every_engine_gives_the_tokens_of_tiktoken_for_real_text(
    encoder: Encoder, reference: Tokenizer
) -> None:
    files = [
        file.locate()
        for name in ("hypothesis", "pip", "rich", "tokenizers", "transformers")
        for file in importlib.metadata.files(name) or []
        if file.suffix in (".py", ".md", ".txt", ".pyi", ".rst") or file.name == "METADATA"
    ][::40]
    texts = [Path(file).read_text(encoding="utf-8") for file in files]
    assert sum(map(len, texts)) > 500_000
    for file, text, tokens in zip(files, texts, encoded(encoder, texts), strict=True):
        assert tokens == reference.encode(text).tolist(), file


def test_a_special_token_inside_a_text_is_ordinary_text(encoder: Encoder) -> None:
    (tokens,) = encoded(encoder, [f"a{SEPARATOR}b"])
    assert tokens == [64, 27, 91, 437, 1659, 5239, 91, 29, 65]
    assert encoder.dtype.__name__ == "uint16"


def test_text_with_half_of_a_surrogate_pair_never_reaches_an_engine(
    tmp_path: Path, make_corpus: Callable[[list[str], Path], CleanCorpus]
) -> None:
    corpus = make_corpus(["one", "\ud83d two", "three \udc00", "four"], tmp_path / "made")
    manifest = json.loads((corpus.corpus / "manifest.json").read_text())
    assert manifest["skipped"] == {"document with half of a surrogate pair": 2}
    assert list(corpus.texts()) == ["one", "four"]
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        pa.array(["\ud83d"], pa.large_string())  # nor could a part of a corpus hold it


def test_an_engine_that_gives_other_tokens_is_refused_with_the_first_difference(
    tmp_path: Path, gpt2_file: Path
) -> None:
    ranks = parse_ranks(gpt2_file.read_bytes())
    other_pattern = BpeTokenizer.of(BPE_PATTERN, ranks)
    save_tokenizer(tmp_path / "other", other_pattern)
    same, other = ("first", "a plain text"), ("second", "It was the year 12345, they say")
    assert_same_tokens(
        load_encoder(tmp_path / "other", "gigatoken"), "gigatoken", [same], other_pattern
    )
    with pytest.raises(ValueError, match="in second, token 4, after 'It was the year'") as caught:
        assert_same_tokens(
            load_encoder(tmp_path / "other", "gigatoken"), "gigatoken", [same, other], other_pattern
        )
    assert "[17031, 2231, 11, 484], not [220, 1065, 2682, 20]" in str(caught.value)
    assert str(caught.value).endswith("use tokenize.engine: tiktoken")
    with pytest.raises(ValueError, match="in adversarial text"):
        assert_same_tokens(
            load_encoder(tmp_path / "other", "gigatoken"), "gigatoken", adversarial(), other_pattern
        )


@pytest.mark.parametrize("unit", [" ", "\t", "\xa0", "\u3000", " \r\n", "a", "7", "."])
def test_every_engine_encodes_a_run_of_any_length(
    encoder: Encoder, reference: Tokenizer, unit: str
) -> None:
    """Tiktoken by itself fails at a million white spaces followed by something else."""
    text = "Name" + unit * (1_200_000 // len(unit)) + "Amount"
    assert encoded(encoder, [text]) == [reference.encode(text).tolist()]


def test_a_text_that_tiktoken_itself_cannot_encode_is_named(gpt2: Path, gpt2_file: Path) -> None:
    unknown = BpeTokenizer.of(r"\s+(?!\S)|\s+|\S+", parse_ranks(gpt2_file.read_bytes()))
    with pytest.raises(ValueError, match=r"tiktoken cannot encode page 7: .*stack"):
        assert_same_tokens(
            load_encoder(gpt2, "gigatoken"),
            "gigatoken",
            [("page 7", " " * 2_000_000 + "a")],
            unknown,
        )


def test_tokens_that_end_early_are_a_difference(tmp_path: Path, gpt2_file: Path) -> None:
    ranks = parse_ranks(gpt2_file.read_bytes())
    letters = BpeTokenizer.of(r"[a-z]+", ranks)  # drops the rest
    save_tokenizer(tmp_path / "other", letters)
    with pytest.raises(ValueError, match=r"in x, token 1, after 'ab': \[.+\], not \[\]"):
        assert_same_tokens(
            load_encoder(tmp_path / "other", "gigatoken"), "gigatoken", [("x", "ab!")], letters
        )


def test_the_sample_is_spread_over_the_corpus(tmp_path: Path, make_parts: MakeParts) -> None:
    one = [f"{n} " + "x" * (GROUP_BYTES // 2) for n in range(80)]
    corpus = make_parts([one], tmp_path / "one")
    rows = [int(name.partition("#")[2]) for name, _ in sample_documents(corpus)]
    assert len(rows) == 12
    assert max(b - a for a, b in zip([0, *rows], [*rows, 80], strict=True)) <= 10
    many = make_parts([[f"{n} of many"] for n in range(40)], tmp_path / "many")
    parts = [int(name.partition("#")[0]) for name, _ in sample_documents(many)]
    assert 8 <= len(parts) <= 12
    assert (parts[0], parts[-1] > 30) == (0, True)


def test_both_engines_write_the_same_parts_and_share_the_cache(
    tmp_path: Path,
    make_parts: MakeParts,
    gpt2_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    digests: Callable[[Path], dict[str, str]],
) -> None:
    monkeypatch.chdir(gpt2_file.parents[1])  # the folder of `.cache/gpt2.tiktoken`
    texts = [f"{n}:{text}" for n, text in enumerate(ADVERSARIAL)]
    corpus = make_parts([texts[:40], texts[40:]], tmp_path / "made")
    here = partial(tokenize_locally, workers=1)

    def made(engine: str, cache: str) -> dict[str, str]:
        params = TokenizeParams.model_validate(
            {"tokenizer": "gpt2", "vocab_size": None, "engine": engine}
        )
        out, kept = tmp_path / "tokens" / f"{engine}-{cache}", tmp_path / cache
        tokenize.run(params, SPLIT, corpus, out, cache=kept, tokenize_parts=here)
        files = digests(out)
        del files["manifest.json"]  # it names the engine
        return files

    assert made("tiktoken", "a") == made("gigatoken", "b")
    assert "made before" not in capsys.readouterr().out
    assert made("gigatoken", "a") == made("tiktoken", "b")
    assert capsys.readouterr().out.count("2 of 2 parts were made before") == 2


def test_an_engine_that_is_not_installed_says_what_to_do(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # makes the import fail
    with pytest.raises(ValueError, match=r"not installed; `pip install '\.\[fast\]'`"):
        load_encoder(gpt2, "gigatoken")
