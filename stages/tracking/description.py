"""The description of a training run in MLflow, recorded before its first update."""

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from stages.artifacts.shards import Shards
from stages.formats.presets import PRESETS
from stages.runtime.yaml_files import read_params
from stages.tracking.note import USE
from stages.tracking.titles import corpus_name, nearest_preset, size_of, title_of
from stages.tracking.tracker import Tracker

DIGEST_CHARACTERS = 32  # MLflow takes at most 36
TRAINING = ("model.", "train.")  # the params of a training run, whatever its tokens are


def describe(
    tracker: Tracker,
    origin: Mapping[str, Any],
    shards: Shards,
    *,
    n_params: int,
    tags: Mapping[str, str],
) -> None:
    """Record a model's lineage (`origin`) as tags, params and datasets, and the user's own tags."""
    code, hardware = origin["code"], origin["hardware"]
    content = read_params()
    nearest = nearest_preset(content, PRESETS)
    name, changes = nearest.name, nearest.changes
    corpus = corpus_name(content["corpus"])
    if imported := shards.manifest.get("imported"):  # params.yaml says nothing about these tokens
        name = corpus = f"imported from {imported['format']}"
        changes = {key: value for key, value in changes.items() if key.startswith(TRAINING)}
    experiment, commit = os.environ.get("DVC_EXP_NAME"), code["git_commit"]
    found = {
        "mlflow.runName": title_of(f"{name} {size_of(n_params)}", changes),
        "mlflow.user": user(),
        "mlflow.source.name": "python -m stages train",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
        "corpus": corpus,
        "git_changed": changed_tag(code),
        **{f"hardware.{name}": value for name, value in hardware.items()},
        **origin["data"],
        "dvc.experiment": experiment,
        **tags,
    }
    tracker.record("status", status="RUNNING")
    tracker.record("tags", values={tag: value for tag, value in found.items() if value is not None})
    if experiment and commit:
        tracker.record("experiment", commit=commit)
    tracker.record("note", part="use", text=USE)
    sections = {**origin["params"], "split": shards.manifest["split"]}
    params = {f"{s}.{key}": value for s, keys in sections.items() for key, value in keys.items()}
    sizes = {"vocab_size": shards.n_vocab, "n_params": n_params}
    tracker.record("params", values={**params, **sizes})
    for context, values in datasets_of(origin["data"], shards, content["corpus"]["source"]):
        tracker.record("dataset", context=context, values=values)


def datasets_of(
    hashes: Mapping[str, str | None], shards: Shards, source: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what a model was made of, from the corpus to the splits: the context and the dataset.

    A digest is the beginning of a manifest's SHA-256, by which `python -m stages lineage` finds the
    data. Imported tokens have neither corpus nor tokens.
    """
    for name in ("corpus", "tokens"):
        if digest := hashes[f"{name}_manifest_sha256"]:
            uri = {"uri": str(shards.folder.with_name(name))}
            about = {"source": source, **uri} if name == "corpus" else uri
            yield name, dataset(name, digest, about, {})
    digest = hashes["shards_manifest_sha256"]
    assert digest is not None  # of the shards here
    for split, context in (("train", "training"), ("val", "validation")):
        uri, sizes = {"uri": str(shards.folder / split)}, asdict(shards.split(split))
        yield context, dataset(f"shards/{split}", digest, uri, sizes)


def dataset(
    name: str, digest: str, source: Mapping[str, str], profile: Mapping[str, int]
) -> dict[str, str]:
    """Return the fields of a dataset as MLflow has them."""
    return {
        "name": name,
        "digest": digest[:DIGEST_CHARACTERS],
        "source_type": "local",
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def user() -> str | None:
    """Return the name of the user; None where there is none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def changed_tag(code: Mapping[str, Any]) -> str:
    """Return the tracked files that differ from the commit, or why they are unknown."""
    if code["git_changed"] is None:
        return f"unknown: {code['git_problem']}"
    return " ".join(code["git_changed"]) or "nothing"
