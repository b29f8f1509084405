import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts.shards import Shards
from stages.lib.split import SplitParams
from stages.shard.params import ShardParams
from stages.shard.stage import run
from stages.tokenizers.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def made(tokens: Path, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    run(ShardParams(shard_tokens=1024, weights=None, max_repetition=1), split, tokens, out)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the shards that a test can damage."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


def change_manifest(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_stream_is_all_tokens_of_its_split(made: Path, name: str) -> None:
    shards = Shards.open(made)
    stream = shards.stream(name)
    described = shards.manifest["splits"][name]
    assert len(described["files"]) > 1
    assert len(stream) == described["tokens"]
    expected = np.concatenate([np.load(made / name / f["name"]) for f in described["files"]])
    assert stream.read(0, len(stream)).tolist() == expected.tolist()


def test_the_tokenizer_is_found(made: Path) -> None:
    shards = Shards.open(made)
    assert load_tokenizer(shards.tokenizer_folder).n_vocab == shards.manifest["n_vocab"]


def test_a_missing_manifest_is_refused_with_the_command_to_make_it(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json is missing; run `dvc repro shard`"):
        Shards.open(folder)


def test_another_version_is_refused(folder: Path) -> None:
    change_manifest(folder, version=2)
    with pytest.raises(ValueError, match=r"manifest\.json has version 2, not 1"):
        Shards.open(folder)


def test_a_file_with_fewer_tokens_is_refused(folder: Path) -> None:
    file = folder / "train" / "00001.npy"
    np.save(file, np.load(file)[:-1])
    with pytest.raises(ValueError, match=r"train/00001\.npy holds 1023 uint16.*says 1024 uint16"):
        Shards.open(folder).stream("train")


def test_a_file_of_another_type_is_refused(folder: Path) -> None:
    file = folder / "val" / "00000.npy"
    np.save(file, np.load(file).astype(np.uint32))
    with pytest.raises(ValueError, match=r"val/00000\.npy holds 1024 uint32"):
        Shards.open(folder).stream("val")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "train" / "00001.npy").unlink()
    with pytest.raises(ValueError, match=r"train/00001\.npy"):
        Shards.open(folder).stream("train")


@pytest.mark.parametrize("size", [100, 500, 2000])
def test_a_file_cut_short_is_refused(folder: Path, size: int) -> None:
    cut_short(folder / "train" / "00001.npy", size)
    with pytest.raises(ValueError):
        Shards.open(folder).stream("train")


@pytest.mark.parametrize("size", [0, 5, 100, 500, 2000])
def test_a_file_cut_short_is_named(folder: Path, size: int) -> None:
    cut_short(folder / "train" / "00001.npy", size)
    with pytest.raises(ValueError, match=r"train/00001\.npy"):
        Shards.open(folder).stream("train")


def test_a_damaged_manifest_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Shards.open(folder)


def cut_short(file: Path, size: int) -> None:
    content = file.read_bytes()
    assert size < len(content)
    file.write_bytes(content[:size])
