import hashlib
import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.shard import ShardParams, run
from stages.split import SplitParams, split_documents
from stages.tokenizer import fingerprint, load_tokenizer

SMALL, LARGE = ShardParams(shard_tokens=1024), ShardParams(shard_tokens=100_000)


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def documents(tokens: Path, split: SplitParams) -> dict[str, list[dict[str, Any]]]:
    """The rows of each side, in order."""
    rows = [
        row for file in sorted(tokens.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    sides = split_documents([row["text_hash"] for row in rows], split)
    return {
        name: [row for row, is_val in zip(rows, sides, strict=True) if is_val == (name == "val")]
        for name in ("train", "val")
    }


def with_manifest(tokens: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the tokens whose manifest says something else."""
    shutil.copytree(tokens, folder)
    manifest = {**read_json(folder / "manifest.json"), **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shards(tokens: Path, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards so small that each split has several."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    run(SMALL, split, tokens, out)
    return out


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_split_is_its_documents_in_order_each_with_a_separator(
    tokens: Path, split: SplitParams, shards: Path, name: str
) -> None:
    separator = load_tokenizer(tokens / "tokenizer").separator
    expected = [[*row["tokens"], separator] for row in documents(tokens, split)[name]]
    files = sorted((shards / name).glob("0*.npy"))
    stream = np.concatenate([np.load(file) for file in files])
    assert stream.tolist() == list(chain.from_iterable(expected))
    assert (
        np.load(shards / name / "ends.npy").tolist()
        == np.cumsum([len(document) for document in expected]).tolist()
    )
    sizes = [len(np.load(file)) for file in files]
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {1024}
    assert 0 < sizes[-1] <= 1024


@pytest.mark.parametrize("name", ["train", "val"])
def test_the_manifest_describes_each_split(
    tokens: Path, split: SplitParams, shards: Path, name: str
) -> None:
    rows = documents(tokens, split)[name]
    described = read_json(shards / "manifest.json")["splits"][name]
    assert described["documents"] == len(rows)
    assert described["tokens"] == sum(len(row["tokens"]) + 1 for row in rows)
    assert described["bytes"] == sum(row["n_bytes"] for row in rows)
    ends = (shards / name / "ends.npy").read_bytes()
    assert described["ends_sha256"] == hashlib.sha256(ends).hexdigest()
    for file in described["files"]:
        path = shards / name / file["name"]
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["tokens"] == len(np.load(path))
    written = {path.name for path in (shards / name).iterdir()}
    assert written == {file["name"] for file in described["files"]} | {"ends.npy"}


def test_the_manifest_says_what_the_shards_were_made_from(
    tokens: Path, split: SplitParams, shards: Path
) -> None:
    manifest, source = read_json(shards / "manifest.json"), read_json(tokens / "manifest.json")
    del manifest["splits"]
    tokens_manifest = (tokens / "manifest.json").read_bytes()
    assert manifest == {
        "version": 1,
        "dtype": "uint16",
        "n_vocab": source["n_vocab"],
        "separator": source["n_vocab"] - 1,
        "tokenizer_fingerprint": source["tokenizer_fingerprint"],
        "corpus_manifest_sha256": source["corpus_manifest_sha256"],
        "tokens_manifest_sha256": hashlib.sha256(tokens_manifest).hexdigest(),
        "split": split.model_dump(),
    }


def test_the_tokenizer_goes_along(tokens: Path, shards: Path) -> None:
    own, source = (fingerprint(load_tokenizer(f / "tokenizer")) for f in (shards, tokens))
    assert own == source


def test_the_size_of_the_shards_does_not_change_the_stream(
    tokens: Path, split: SplitParams, shards: Path, tmp_path: Path
) -> None:
    run(LARGE, split, tokens, tmp_path / "shards")
    whole = np.load(tmp_path / "shards" / "train" / "00000.npy")
    parts = [np.load(file) for file in sorted((shards / "train").glob("0*.npy"))]
    assert len(list((tmp_path / "shards" / "train").glob("0*.npy"))) == 1
    assert whole.tolist() == np.concatenate(parts).tolist()


def test_the_same_tokens_give_the_same_bytes(
    tokens: Path,
    split: SplitParams,
    shards: Path,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    run(SMALL, split, tokens, tmp_path / "shards")
    assert digests(tmp_path / "shards") == digests(shards)


@pytest.mark.parametrize(("n_vocab", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_are_stored_in_the_type_of_the_vocabulary(
    tokens: Path, split: SplitParams, tmp_path: Path, n_vocab: int, dtype: str
) -> None:
    source = with_manifest(tokens, tmp_path / "tokens", n_vocab=n_vocab, dtype=dtype)
    run(LARGE, split, source, tmp_path / "shards")
    stream = np.load(tmp_path / "shards" / "val" / "00000.npy")
    assert stream.dtype == np.dtype(dtype)
    assert stream[-1] == n_vocab - 1  # the separator


@pytest.mark.parametrize("too_few", [1, 5])
def test_an_id_beyond_the_vocabulary_is_refused_and_nothing_left_behind(
    tokens: Path, split: SplitParams, tmp_path: Path, too_few: int
) -> None:
    n_vocab = read_json(tokens / "manifest.json")["n_vocab"] - too_few
    source = with_manifest(tokens, tmp_path / "tokens", n_vocab=n_vocab)
    with pytest.raises(ValueError, match=rf"holds id \d+, the vocabulary ends at {n_vocab - 1}"):
        run(LARGE, split, source, tmp_path / "out" / "shards")
    assert list((tmp_path / "out").iterdir()) == []
