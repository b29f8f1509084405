"""The description of a training run: its name, corpus and params."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.shards import Shards
from stages.shard import stage as shard
from stages.shard.params import ShardParams
from stages.tools.token_files import export_shards, import_files, named_tokenizer
from stages.tracking.description import describe
from stages.tracking.tracker import Tracker

ROOT = Path(__file__).parents[3]
ORIGIN = {
    "code": {"git_commit": "1" * 40, "git_changed": []},
    "hardware": {"device": "cpu"},
    "data": {
        "corpus_manifest_sha256": None,
        "tokens_manifest_sha256": None,
        "shards_manifest_sha256": "2" * 64,
    },
    "params": {"train": {"seed": 3}},
}


def tags_of(shards: Path) -> dict[str, Any]:
    """Return the tags that describe a training run on some shards, with the default params."""
    tracker = Tracker(shards.name, enabled=True)  # not entered, it delivers nothing
    describe(tracker, ORIGIN, Shards.open(shards), n_params=29_000, tags={})
    assert tracker.outbox is not None
    (entry,) = [entry for entry, _ in tracker.outbox.entries(0) if entry["kind"] == "tags"]
    tags: dict[str, Any] = entry["values"]
    return tags


def test_imported_tokens_are_not_named_after_the_corpus_of_the_params(
    tokens: Path, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    made, files, imported = tmp_path / "made", tmp_path / "files", tmp_path / "imported"
    shard.run(ShardParams(shard_tokens=1024, weights=None, max_repetition=1), split, tokens, made)
    named = tags_of(made)
    assert (named["corpus"], named["mlflow.runName"]) == ("shakespeare", "shakespeare 29K")
    export_shards(Shards.open(made), "nanogpt", files)
    import_files(files, "nanogpt", named_tokenizer(files, None), imported)
    named = tags_of(imported)
    assert named["corpus"] == "imported from nanogpt"
    assert named["mlflow.runName"] == "imported from nanogpt 29K"
