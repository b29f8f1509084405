"""What a run left, read from the files of a revision."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.artifacts.corpus import CORPUS
from stages.artifacts.model import LINEAGE, MODEL
from stages.artifacts.shards import SHARDS
from stages.artifacts.statistics import STATISTICS
from stages.evaluate.stage import PLOTS, RESULT
from stages.formats.dvc_lock import LOCK_FILE, params_problems
from stages.formats.presets import PRESETS
from stages.params.sections import SECTIONS
from stages.report.revisions import Revision
from stages.report.sharing import legible, shareable
from stages.runtime.yaml_files import PARAMS_FILE
from stages.sample.stage import OUT as SAMPLES
from stages.tracking.description import TRAINING
from stages.tracking.registry import Score, text_id
from stages.tracking.titles import nearest_preset

Table = Mapping[str, NDArray[np.float64]]  # columns by name


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the stage `statistics` found, and the tables of its plots."""

    facts: Mapping[str, Any]
    lengths: Table
    frequencies: Table


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run. Nothing in it is private."""

    revision: Revision
    name: str  # of the preset or the corpus
    preset: str | None  # the nearest
    changes: Mapping[str, Any]  # from the preset, by dotted key
    params: Mapping[str, Any]  # by section
    lineage: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    shards: Mapping[str, Any]  # their manifest
    corpus: Mapping[str, Any] | None  # its manifest; None if the tokens were imported
    statistics: Statistics | None  # likewise
    train: Table
    val: Table
    by_position: Table
    losses: Table  # of each chunk of `context` tokens of the validation text
    samples: Sequence[Mapping[str, str]]

    @property
    def batch_tokens(self) -> int:
        """Return the tokens of a training step."""
        tokens: int = self.lineage["params"]["train"]["batch_tokens"]
        return tokens

    @property
    def text_id(self) -> str:
        """Return a short hash that identifies the validation text."""
        return text_id(self.shards)

    @property
    def score(self) -> Score:
        """Return the score, which can be compared with that of another run on the same text."""
        names = ("bits_per_byte", "standard_error", "tokens", "bytes", "context")
        return Score(
            **{name: self.evaluation[name] for name in names},
            tokenizer=self.lineage["data"]["tokenizer_fingerprint"],
            chunks=list(
                zip(
                    self.losses["loss"].tolist(),
                    self.losses["tokens"].astype(int).tolist(),
                    strict=True,
                )
            ),
        )


@contextmanager
def as_written(revision: Revision) -> Iterator[None]:
    """Raise ValueError if the content of a file is not what its writer wrote."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the files of {revision.name} are not as this version of the project writes them "
            f"({error!r})"
        ) from None


def read_run(revision: Revision) -> Run:
    """Return the run that a revision holds.

    Raises ValueError if a file is missing, or written by another version of the project.
    """
    with as_written(revision):
        shards = json.loads(revision.text(SHARDS / "manifest.json"))
        lineage = json.loads(revision.text(MODEL / LINEAGE))
        check_params(revision, lineage)
        params = params_of(revision)
        nearest = nearest_preset(params, PRESETS)
        name, changes = nearest.name, nearest.changes
        imported = shards.get("imported")
        if imported:  # the params say nothing about these tokens
            name = f"imported from {imported['format']}"
            changes = {key: value for key, value in changes.items() if key.startswith(TRAINING)}
        return Run(
            revision=revision,
            name=name,
            preset=nearest.preset,
            changes=shareable(changes),
            params=shareable(params),
            lineage=shareable(lineage),
            evaluation=json.loads(revision.text(RESULT)),
            shards=shards,
            corpus=None if imported else corpus_of(revision, lineage),
            statistics=None if imported else read_statistics(revision),
            train=table(revision.text(MODEL / "train.csv")),
            val=table(revision.text(MODEL / "val.csv")),
            by_position=table(revision.text(PLOTS / "loss_by_position.csv")),
            losses=table(revision.text(PLOTS / "val_losses.csv")),
            samples=[
                {key: legible(sample[key]) for key in ("prompt", "text")}
                for sample in json_lines(revision.text(SAMPLES / "samples.jsonl"))
            ],
        )


def check_params(revision: Revision, lineage: Mapping[str, Any]) -> None:
    """Raise ValueError if the model was trained with other params than dvc.lock records."""
    if problems := params_problems(revision.stages["train"], lineage["params"], SECTIONS):
        raise ValueError(
            f"{MODEL} in {revision.name} was {problems[0]}; run `dvc checkout` for the model of "
            f"{LOCK_FILE}, or `dvc repro` for a new one"
        )


def params_of(revision: Revision) -> dict[str, Any]:
    """Return the sections of the params that the outputs were made with, as dvc.lock has them.

    params.yaml may have been edited since.
    """
    found: dict[str, Any] = {}
    for stage in revision.stages.values():
        sections = stage.get("params", {}).get(PARAMS_FILE.name, {})
        found |= {key: value for key, value in sections.items() if "." not in key}
    return found


def corpus_of(revision: Revision, lineage: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the manifest of the corpus, None if it is that of another model."""
    text = revision.text(CORPUS / "manifest.json")
    if sha256(text.encode()).hexdigest() != lineage["data"]["corpus_manifest_sha256"]:
        return None
    manifest: dict[str, Any] = shareable(json.loads(text))
    return manifest


def read_statistics(revision: Revision) -> Statistics:
    """Return the statistics of the text."""
    return Statistics(
        facts=json.loads(revision.text(STATISTICS / "statistics.json")),
        lengths=table(revision.text(STATISTICS / "lengths.csv")),
        frequencies=table(revision.text(STATISTICS / "tokens.csv")),
    )


def table(text: str) -> Table:
    """Return the columns of a CSV file of numbers."""
    header = next(csv.reader([text.split("\n", 1)[0]]))
    rows = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2)
    return dict(zip(header, rows.T, strict=True))


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one in each line."""
    return map(json.loads, text.removesuffix("\n").split("\n"))
