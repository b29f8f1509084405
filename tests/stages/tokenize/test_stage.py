import hashlib
import json
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from pydantic import ValidationError

from stages.artifacts.clean import CleanCorpus
from stages.download import corpus_writer as corpus_on_disk
from stages.lib.split import SplitParams, split_documents
from stages.lib.text_hash import hash_rows, text_hash
from stages.tokenize import stage as tokenize
from stages.tokenize.learned import auto_bpe, auto_vocab_size, train_bpe
from stages.tokenize.params import TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenize.stage import make_tokenizer
from stages.tokenizers.tokenizer import BpeTokenizer, fingerprint, load_tokenizer

SPLIT = SplitParams(val_fraction=0.4, seed=1)
CHAR = TokenizeParams(tokenizer="char", vocab_size=None, engine="tiktoken")
BPE = TokenizeParams(tokenizer="bpe", vocab_size=300, engine="tiktoken")
AUTO = TokenizeParams(tokenizer="bpe", vocab_size="auto", engine="tiktoken")
TEXTS = [f"naïve {hashlib.sha256(bytes([n])).hexdigest()} " * (1 + n % 3) for n in range(200)]

MakeCorpus = Callable[[list[str], Path], CleanCorpus]


def run(params: TokenizeParams, corpus: CleanCorpus, out: Path, *, workers: int = 1) -> None:
    """Tokenize on this machine, with a cache next to the tokens."""
    here = partial(tokenize_locally, workers=workers)
    tokenize.run(
        params, SPLIT, corpus, out, cache=out.with_name(f"{out.name}-cache"), tokenize_parts=here
    )


def rows(tokens: Path) -> list[dict[str, Any]]:
    files = sorted(tokens.glob("*.arrow"))
    return [row for file in files for row in pa.ipc.open_file(file).read_all().to_pylist()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: MakeCorpus) -> CleanCorpus:
    """Return a corpus of 200 documents in two parts, the first of several batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_on_disk, "PART_BYTES", 20_000)
        made = make_corpus(TEXTS, tmp_path_factory.mktemp("corpus") / "made")
    counts = [pq.read_metadata(file).num_rows for file in sorted(made.corpus.glob("*.parquet"))]
    assert len(counts) == 2
    assert counts[0] > 64
    return made


@pytest.fixture(scope="module")
def made(corpus: CleanCorpus) -> Path:
    """Return the tokens that one worker makes of that corpus."""
    run(BPE, corpus, corpus.corpus.parent / "tokens")
    return corpus.corpus.parent / "tokens"


def test_two_workers_make_the_same_bytes_as_one(
    corpus: CleanCorpus, made: Path, tmp_path: Path, digests: Callable[[Path], dict[str, str]]
) -> None:
    run(BPE, corpus, tmp_path / "tokens", workers=2)
    assert digests(tmp_path / "tokens") == digests(made)
    assert set(digests(made)) == {
        "manifest.json",
        "part-00000.arrow",
        "part-00001.arrow",
        "tokenizer/ranks.tiktoken",
        "tokenizer/tokenizer.json",
    }


def test_a_run_of_any_length_is_learned_from_and_encoded(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    texts = ["Name" + unit * 1_200_000 + "Amount" for unit in (*" \t\xa0\u3000", "x")]
    run(BPE, make_corpus([*TEXTS, *texts], tmp_path / "made"), tmp_path / "tokens")
    tokenizer = load_tokenizer(tmp_path / "tokens/tokenizer")
    decoded = [tokenizer.decode(row["tokens"]) for row in rows(tmp_path / "tokens")]
    assert decoded == [*TEXTS, *texts]


def test_a_document_without_a_space_is_passed_to_tiktoken_in_parts(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longer a piece, the longer tiktoken takes for each of its bytes."""
    dna = "".join(random.Random(1).choices("ACGT", k=1 << 20))
    corpus = make_corpus([*TEXTS, dna], tmp_path / "made")
    lengths = []
    encode = tiktoken.Encoding.encode_to_numpy

    def record_length(self: tiktoken.Encoding, text: str, **how: Any) -> Any:
        lengths.append(max(map(len, re.split(r"\s", text))))
        return encode(self, text, **how)

    monkeypatch.setattr(tiktoken.Encoding, "encode_to_numpy", record_length)
    run(BPE, corpus, tmp_path / "tokens")
    tokenizer = load_tokenizer(tmp_path / "tokens/tokenizer")
    assert tokenizer.decode(rows(tmp_path / "tokens")[-1]["tokens"]) == dna
    assert max(lengths) < 1 << 16


def test_every_document_has_a_row_in_order(made: Path) -> None:
    tokenizer = load_tokenizer(made / "tokenizer")
    documents = rows(made)
    assert [tokenizer.decode(row["tokens"]) for row in documents] == TEXTS
    assert [row["n_bytes"] for row in documents] == [len(text.encode()) for text in TEXTS]
    assert [row["text_hash"] for row in documents] == [text_hash(text.encode()) for text in TEXTS]
    assert [row["id"] for row in documents] == [f"texts.jsonl#{n + 1}" for n in range(len(TEXTS))]


def test_the_manifest_describes_the_tokens(corpus: CleanCorpus, made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    n_tokens = sum(len(row["tokens"]) for row in rows(made))
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    corpus_manifest = (corpus.corpus / "manifest.json").read_bytes()
    clean_manifest = (corpus.folder / "manifest.json").read_bytes()
    files = manifest.pop("files")
    assert manifest == {
        "version": 1,
        "tokenize": {"tokenizer": "bpe", "vocab_size": 300, "engine": "tiktoken"},
        "split": {"seed": 1, "val_fraction": 0.4},
        "tokenizer_fingerprint": fingerprint(load_tokenizer(made / "tokenizer")),
        "corpus_manifest_sha256": hashlib.sha256(corpus_manifest).hexdigest(),
        "clean_manifest_sha256": hashlib.sha256(clean_manifest).hexdigest(),
        "n_vocab": 300,
        "dtype": "uint16",
        "documents": 200,
        "tokens": n_tokens,
        "bytes": n_bytes,
        "bytes_per_token": round(n_bytes / n_tokens, 4),
    }
    for file in files:
        path = made / file["name"]
        part = pa.ipc.open_file(path).read_all().to_pylist()
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["documents"] == len(part)
        assert file["tokens"] == sum(len(row["tokens"]) for row in part)
        assert file["bytes"] == sum(row["n_bytes"] for row in part)
    assert sum(file["documents"] for file in files) == 200


def test_a_bpe_vocabulary_is_learned_from_training_documents_alone(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    texts = [f"{hashlib.sha256(bytes([n])).hexdigest()} " * (20 + n) for n in range(40)]
    sides = split_documents(hash_rows(text_hash(text.encode()) for text in texts), SPLIT)
    train = [text for text, is_val in zip(texts, sides, strict=True) if not is_val]
    val = [text for text, is_val in zip(texts, sides, strict=True) if is_val]

    def learned(*documents: str) -> BpeTokenizer:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        tokenizer = make_tokenizer(BPE, SPLIT, make_corpus(list(documents), folder))
        assert isinstance(tokenizer, BpeTokenizer)
        return tokenizer

    expected = train_bpe(train, 300).ranks
    assert learned(*train, *val[:3]).ranks == expected
    assert learned(*val[3:], *train).ranks == expected
    assert train_bpe([*train, *val[:3]], 300).ranks != expected  # val text would change it
    assert learned(*train[5:], *val).ranks != expected


def test_a_char_vocabulary_holds_the_characters_of_every_document(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    texts = [f"{chr(0x3041 + n)}a" for n in range(30)]
    tokenizer = make_tokenizer(CHAR, SPLIT, make_corpus(texts, tmp_path / "made"))
    assert tokenizer.n_vocab == 32
    assert tokenizer.encode("a" + texts[29]).tolist() == [0, 30, 0]


def test_a_corpus_too_small_for_its_vocabulary_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    corpus = make_corpus(["ab ab", "cd cd"], tmp_path / "made")
    with pytest.raises(ValueError, match=r"a vocabulary of only 25\d tokens") as caught:
        run(BPE, corpus, tmp_path / "out" / "tokens")
    assert "tokenize.vocab_size is 300" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("training_bytes", "vocab_size"),
    [(0, 257), (2047, 257), (2048, 258), (95_000, 303), (3_668_000, 2048), (10**10, 2048)],
)
def test_an_automatic_vocabulary_grows_with_the_text(training_bytes: int, vocab_size: int) -> None:
    assert auto_vocab_size(training_bytes) == vocab_size


def test_an_automatic_vocabulary_equals_one_of_its_size() -> None:
    texts = [f"{hashlib.sha256(bytes([n])).hexdigest()} naïve " * 30 for n in range(100)]
    size = auto_vocab_size(sum(len(text.encode()) for text in texts))
    assert size == 362
    assert auto_bpe(texts).ranks == train_bpe(texts, size).ranks


def test_an_automatic_vocabulary_is_no_larger_than_the_pairs_of_the_text_allow() -> None:
    bpe = auto_bpe(["ab cd " * 100_000])  # text for 293 tokens, but no word longer than " ab"
    assert bpe.n_vocab == len(train_bpe(["ab cd " * 100_000], bpe.n_vocab).ranks) + 1
    assert 257 < bpe.n_vocab < 265
    assert auto_bpe(["a", "b"]).n_vocab == 257


def test_the_manifest_holds_the_automatic_size_and_its_rule(
    corpus: CleanCorpus, tmp_path: Path
) -> None:
    run(AUTO, corpus, tmp_path / "a")
    run(AUTO, corpus, tmp_path / "b", workers=2)
    manifest = json.loads((tmp_path / "a/manifest.json").read_text())
    sides = split_documents(hash_rows(corpus.text_hashes()), SPLIT)
    train = sum(len(t.encode()) for t, is_val in zip(TEXTS, sides, strict=True) if not is_val)
    assert manifest["n_vocab"] == 257 + train // 2048 > 257
    assert manifest["tokenize"]["vocab_size"] == "auto"
    assert manifest["auto_vocab_size"] == {"training_bytes_per_piece": 2048, "most": 2048}
    assert (tmp_path / "b/manifest.json").read_bytes() == (
        tmp_path / "a/manifest.json"
    ).read_bytes()


def test_a_corpus_of_one_document_is_refused(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(["only one " * 100], tmp_path / "made")
    with pytest.raises(ValueError, match="the corpus is one document"):
        run(BPE, corpus, tmp_path / "tokens")


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size"),
    [
        ("bpe", None),
        ("bpe", 256),
        ("bpe", "Auto"),
        ("char", "auto"),
        ("char", 300),
        ("bytes", 257),
        ("gpt2", 50257),
        ("words", None),
    ],
)
def test_only_a_learned_vocabulary_has_a_size_to_choose(
    tokenizer: str, vocab_size: int | str | None
) -> None:
    with pytest.raises(ValidationError, match=r"tokenizer|vocab_size"):
        TokenizeParams.model_validate(
            {"tokenizer": tokenizer, "vocab_size": vocab_size, "engine": "tiktoken"}
        )


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size"), [("bpe", 300), ("char", None), ("bytes", None)]
)
def test_the_fast_engine_is_for_gpt2_only(tokenizer: str, vocab_size: int | None) -> None:
    with pytest.raises(ValidationError, match="gigatoken is for tokenizer `gpt2` only"):
        TokenizeParams.model_validate(
            {"tokenizer": tokenizer, "vocab_size": vocab_size, "engine": "gigatoken"}
        )
