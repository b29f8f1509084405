"""The figures of a corpus that is small enough to count by hand."""

import csv
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts.clean import CleanCorpus
from stages.artifacts.shards import Shards
from stages.clean import stage as clean
from stages.clean.params import CleanParams
from stages.download import corpus_writer as corpus_on_disk
from stages.lib.split import SplitParams
from stages.shard.params import ShardParams
from stages.shard.stage import run as run_shard
from stages.statistics import stage as statistics
from stages.tokenize import stage as tokenize
from stages.tokenize.params import TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenizers.tokenizer import load_tokenizer

BYTES = TokenizeParams(tokenizer="bytes", vocab_size=None, engine="tiktoken")
AS_IT_IS = ShardParams(shard_tokens=1024, weights=None, max_repetition=1)
Make = Callable[[list[str], Path], CleanCorpus]


def shards_of(cleaned: CleanCorpus, split: SplitParams) -> Path:
    """Add tokens, one for each byte, and shards to the folder of a corpus, and return it."""
    folder = cleaned.corpus.parent
    here = partial(tokenize_locally, workers=1)
    tokens = folder / "tokens"
    tokenize.run(BYTES, split, cleaned, tokens, cache=folder / "cache", tokenize_parts=here)
    run_shard(AS_IT_IS, split, tokens, folder / "shards")
    return folder


def run(data: Path, out: Path) -> dict[str, Any]:
    """Run the stage on such a folder."""
    shards = Shards.open(data / "shards")
    return statistics.run(data / "corpus", data / "clean", data / "tokens", shards, out)


def table(file: Path) -> list[dict[str, int]]:
    """Read a CSV file of integers."""
    with file.open(newline="") as rows:
        return [{key: int(value) for key, value in row.items()} for row in csv.DictReader(rows)]


@pytest.fixture(scope="module")
def data(make_corpus: Make, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 40 texts of 2 to 41 letters, all `a` but the last, one duplicate and an empty text."""
    texts = ["a" * n + "b" for n in range(1, 41)]
    folder = tmp_path_factory.mktemp("statistics") / "data"
    return shards_of(make_corpus([*texts, "aaab", " "], folder), split)


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the stage writes about them."""
    out = tmp_path_factory.mktemp("statistics") / "out"
    run(data, out)
    return out


@pytest.fixture(scope="module")
def figures(made: Path) -> dict[str, Any]:
    """Return the figures in it."""
    content: dict[str, Any] = json.loads((made / "statistics.json").read_text())
    return content


def test_the_headline_figures_are_counted(figures: dict[str, Any]) -> None:
    assert {key: value for key, value in figures.items() if isinstance(value, (int, float))} == {
        "documents": 40,
        "bytes": 860,
        "tokens": 860,
        "bytes_per_token": 1.0,
        "vocabulary": 257,
        "vocabulary_use": round(3 / 257, 4),
        "unseen_ids": 254,
    }
    assert figures["dropped"] == {"duplicate": 1}
    assert figures["skipped"] == {"empty document": 1}


def test_the_most_frequent_tokens_come_with_text_and_count(figures: dict[str, Any]) -> None:
    assert figures["top_tokens"] == [
        {"id": 97, "text": "a", "count": 820, "share": round(820 / 900, 6)},
        {"id": 98, "text": "b", "count": 40, "share": round(40 / 900, 6)},
        {"id": 256, "text": "<|endoftext|>", "count": 40, "share": round(40 / 900, 6)},
    ]


def test_quantiles_are_lengths_of_documents(figures: dict[str, Any]) -> None:
    lengths = {row["share"]: (row["tokens"], row["bytes"]) for row in figures["lengths"]}
    assert lengths[0.0] == (2, 2)
    assert lengths[0.25] == (11, 11)  # 10 of 40 are no longer than that
    assert lengths[0.5] == (21, 21)
    assert lengths[1.0] == (41, 41)


def test_the_contamination_is_among_the_figures(figures: dict[str, Any]) -> None:
    assert figures["leak"] == {
        "share": 0.0,
        "words": 13,
        "ngrams": 0,  # each text is one word
        "found": 0,
        "train_compared": 1.0,
        "val_compared": 1.0,
        "worst": [],
    }


def test_splits_match_the_shards(data: Path, figures: dict[str, Any]) -> None:
    train, val = figures["splits"]
    assert (train["split"], val["split"]) == ("train", "val")
    assert train["documents"] + val["documents"] == 40
    for split in (train, val):
        assert len(Shards.open(data / "shards").stream(split["split"])) == split["tokens"]
        assert split["tokens"] == split["bytes"] + split["documents"]


def test_every_document_is_in_one_bin(made: Path, data: Path) -> None:
    rows = table(made / "lengths.csv")
    edges = [row["tokens"] for row in rows]
    assert edges == [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40]
    sizes = np.arange(2, 42)
    expected = np.histogram(sizes, [*edges, 50])[0].tolist()
    assert [row["train"] + row["val"] for row in rows] == expected
    shards = Shards.open(data / "shards")
    assert sum(row["val"] for row in rows) == len(shards.ends("val"))


def test_frequencies_fall_with_the_rank(made: Path) -> None:
    rows = [(row["rank"], row["count"]) for row in table(made / "tokens.csv")]
    assert rows == [(1, 820), (2, 40), (3, 40)]


def test_the_same_data_give_the_same_bytes(
    data: Path, made: Path, tmp_path: Path, digests: Callable[[Path], dict[str, str]]
) -> None:
    run(data, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(made)
    assert set(digests(made)) == {
        *("statistics.json", "lengths.csv", "tokens.csv"),
        *("lengths.png", "lengths-dark.png", "frequencies.png", "frequencies-dark.png"),
    }


def test_each_corpus_of_a_mixture_is_counted_separately(
    make_corpus: Make,
    split: SplitParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus_on_disk, "PART_BYTES", 10)  # a part for each text
    texts = ["a" * 19 + "b", "c" * 19 + "d", "a" * 19 + "b", "e" * 9 + "f" * 21]
    cleaned = make_corpus(texts, tmp_path / "data")
    manifest = json.loads((cleaned.corpus / "manifest.json").read_text())
    for file, corpus in zip(manifest["files"], ("lyrics", "lyrics", "prose", "prose"), strict=True):
        file["corpus"] = corpus
    (cleaned.corpus / "manifest.json").write_text(json.dumps(manifest))
    clean.run(CleanParams.model_validate(cleaned.manifest["clean"]), cleaned.corpus, cleaned.folder)
    data = shards_of(CleanCorpus.open(cleaned.corpus, cleaned.folder), split)
    parts = {"lyrics": {"repeats": 2.0, "share": 0.7}, "prose": {"repeats": 0.9, "share": 0.3}}
    manifest = json.loads((data / "shards/manifest.json").read_text())
    manifest["mixture"] = {"max_repetition": 2, "corpora": parts}
    (data / "shards/manifest.json").write_text(json.dumps(manifest))
    lyrics, prose = run(data, tmp_path / "out")["corpora"]
    sizes = ("documents", "tokens", "bytes", "dropped")
    assert [lyrics[size] for size in sizes] == [2, 40, 40, 0]
    assert [prose[size] for size in sizes] == [1, 30, 30, 1]
    assert {"lyrics": lyrics["mixture"], "prose": prose["mixture"]} == parts


@pytest.fixture(scope="module")
def alike(make_corpus: Make, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 40 texts of twenty words of their own followed by the same twenty words."""
    refrain = " ".join(f"refrain{word}" for word in range(20))
    texts = [" ".join(f"own{n}x{word}" for word in range(20)) + f" {refrain}" for n in range(40)]
    folder = tmp_path_factory.mktemp("alike") / "data"
    return shards_of(make_corpus(texts, folder), split)


def contamination(data: Path) -> dict[str, Any]:
    """Return the figures of the contamination."""
    shards = Shards.open(data / "shards")
    return statistics.measure_contamination(shards, load_tokenizer(shards.tokenizer_folder))


def test_text_in_both_splits_is_found(alike: Path) -> None:
    figures = contamination(alike)
    documents = len(Shards.open(alike / "shards").ends("val"))
    assert figures["ngrams"] == 28 * documents  # 40 words have 28 runs of 13
    assert figures["found"] == 8 * documents  # and 8 of them are in the refrain
    assert figures["share"] == round(8 / 28, 6)
    assert (figures["train_compared"], figures["val_compared"]) == (1.0, 1.0)
    assert figures["worst"][0] == {"document": 1, "share": round(8 / 28, 4)}
    assert (
        statistics.contamination_line(figures)
        == "28.57% of the validation text is in the training text"
    )


def test_a_large_corpus_is_sampled_evenly_and_the_share_is_reported(
    alike: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Shards.open(alike / "shards").stream("train")
    monkeypatch.setattr(statistics, "SAMPLE_TOKENS", len(stream) // 2)
    figures = contamination(alike)
    assert 0.2 < figures["train_compared"] < 0.6
    assert figures["val_compared"] == 1.0
    assert figures["share"] == round(8 / 28, 6)  # every text has the refrain
    assert statistics.contamination_line(figures).endswith("% of it)")


def test_only_the_beginning_of_a_long_document_is_compared(
    alike: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DOCUMENT_TOKENS", 100)
    figures = contamination(alike)
    assert figures["found"] == 0  # the refrain comes later
    assert figures["train_compared"] < 0.5


def test_damaged_ends_are_named(data: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(data, tmp_path / "data"))
    file = damaged / "shards/train/ends.npy"
    np.save(file, np.load(file)[:-1])
    with pytest.raises(ValueError, match=r"train/ends\.npy holds"):
        run(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
