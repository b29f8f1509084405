"""The description of a training run in MLflow, recorded before its first update."""

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stages.artifacts.shards import Shards
from stages.formats.presets import PRESETS
from stages.runtime.yaml_files import read_params
from stages.tracking.mlflow_run import Tracker
from stages.tracking.note import USE
from stages.tracking.titles import corpus_name, nearest_preset, size_of, title_of

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
    name, changes = nearest_preset(content, PRESETS)
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
    for name, context in (("train", "training"), ("val", "validation")):
        tracker.record(
            "dataset",
            context=context,
            values={
                "name": f"shards/{name}",
                "digest": origin["data"]["shards_manifest_sha256"][:32],
                "source_type": "local",
                "source": json.dumps({"uri": str(shards.folder / name)}),
                "profile": json.dumps(asdict(shards.split(name))),
            },
        )


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
