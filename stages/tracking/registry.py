"""Registered models in MLflow: every evaluated model a version, the best one `champion`.

All versions of a registered model were measured on the same unseen text, which is part of its name:
when the corpus or its split changes, the next model is the first version of another. The champion
changes only if a new model is better by more than twice the standard error of the difference.
"""

import csv
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.tracking.store import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
STANDARD_ERRORS = 2.0
SCORE_FILES = ("evaluation.json", "val_losses.csv")
FOLDER = "evaluate"  # of a run's artifacts
ID_CHARACTERS = 6
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"  # MLflow's code


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model predicts the validation split."""

    bits_per_byte: float
    standard_error: float  # of the loss, in nats per token
    tokens: int
    bytes: int
    context: int  # tokens per chunk
    tokenizer: str  # fingerprint
    chunks: list[tuple[float, int]]  # of `context` tokens: the loss in nats and the tokens


@dataclass(frozen=True)
class Difference:
    """By how many bits per byte a model is better than another, and the standard error of that."""

    bits_per_byte: float
    standard_error: float
    paired: bool

    @property
    def is_certain(self) -> bool:
        """Return whether the model is better by more than chance explains."""
        return self.bits_per_byte > STANDARD_ERRORS * self.standard_error


def difference(model: Score, other: Score) -> Difference:
    """Compare a model with another on the same text.

    With the same tokens, the losses of each chunk make a pair, and only their difference
    varies. With other tokens, the errors of both add up, as if they were of different texts: more
    than it is, because both find the same passages hard.
    """
    better = other.bits_per_byte - model.bits_per_byte
    to_bits = 1 / (math.log(2) * model.bytes)
    if (model.tokenizer, model.tokens) == (other.tokenizer, other.tokens):
        length = math.lcm(model.context, other.context)
        pairs = list(zip(joined(model, length), joined(other, length), strict=True))
        if len(pairs) > 1:
            differences = [theirs - ours for (ours, _), (theirs, _) in pairs]
            counts = [count for (_, count), _ in pairs]
            return Difference(better, ratio_error(differences, counts) * to_bits, paired=True)
    errors = (
        score.standard_error * score.tokens / (math.log(2) * score.bytes)
        for score in (model, other)
    )
    return Difference(better, math.hypot(*errors), paired=False)


def joined(score: Score, length: int) -> list[tuple[float, int]]:
    """Return the loss and the tokens of chunks of `length` tokens, a multiple of the context."""
    size = length // score.context
    parts = [score.chunks[i : i + size] for i in range(0, len(score.chunks), size)]
    return [(sum(loss for loss, _ in part), sum(count for _, count in part)) for part in parts]


def ratio_error(values: list[float], counts: list[int]) -> float:
    """Return the standard error of the sum of values, one for each chunk of `counts` tokens.

    As in nanogpt.train.validation: that of a ratio estimator, times the number of tokens.
    """
    n, mean = len(values), sum(values) / sum(counts)
    residuals = (value - mean * count for value, count in zip(values, counts, strict=True))
    return math.sqrt(sum(residual**2 for residual in residuals) / (n - 1) * n)


def text_id(manifest: Mapping[str, Any]) -> str:
    """Return a short hash that identifies the validation text of some shards."""
    val = manifest["splits"]["val"]
    parts = [
        *(manifest["corpus_manifest_sha256"], manifest["split"], val["documents"], val["bytes"]),
        (manifest.get("imported") or {}).get("sha256"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:ID_CHARACTERS]


def registered_name(corpus: str, text: str) -> str:
    """Return the name of the registered model for a corpus and a validation text."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', corpus).strip('-.') or 'model'}-{text}"


def register(client: "MlflowClient", run_id: str, text: str) -> None:
    """Register the model of a run as a version, and make it the champion if it is better."""
    run = client.get_run(run_id)
    logged, score = ready_model(client, run), score_of(client, run)
    if logged is None or score is None:
        lacking = "model" if logged is None else "evaluation"
        log(f"{run.info.run_name} is not registered: MLflow has no {lacking} of this run")
        return
    name = registered_name(run.data.tags.get("corpus", ""), text)
    create_registered_model(client, name)
    champion = champion_of(client, name)
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((v for v in versions if v.run_id == run_id), None)
    if version is None:
        source = logged.artifact_location
        version = client.create_model_version(name, source, run_id, model_id=logged.model_id)
    wins, words = verdict(client, score, version, champion)
    bits = f"{score.bits_per_byte:.4f}"
    client.set_model_version_tag(name, version.version, "bits_per_byte", bits)
    client.update_model_version(name, version.version, words)
    if wins:
        client.set_registered_model_alias(name, CHAMPION, version.version)


def ready_model(client: "MlflowClient", run: "Run") -> "LoggedModel | None":
    """Return the model that a run logged, None if it has not been uploaded."""
    mine = f"source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([run.info.experiment_id], mine)
    return next((model for model in models if model.status == "READY"), None)


def create_registered_model(client: "MlflowClient", name: str) -> None:
    """Create a registered model unless it exists."""
    from mlflow.exceptions import MlflowException

    text = (
        "Models of one corpus, all measured on the same unseen text. `champion` is the best: it "
        f"changes only if a version is better by more than {STANDARD_ERRORS:.0f} standard errors."
    )
    try:
        client.create_registered_model(name, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def champion_of(client: "MlflowClient", name: str) -> "ModelVersion | None":
    """Return the champion of a registered model, None if it has none."""
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    return client.get_model_version(name, number) if number else None


def verdict(
    client: "MlflowClient", score: Score, version: "ModelVersion", champion: "ModelVersion | None"
) -> tuple[bool, str]:
    """Return whether a version becomes the champion, and why, as Markdown."""
    own = f"{score.bits_per_byte:.4f} bits per byte of unseen text"
    if champion is None:
        return True, f"{own}. The champion, as the first version."
    if champion.run_id == version.run_id:
        return False, f"{own}. The champion, measured again."
    than = f"version {champion.version}, the champion at the time"
    other = score_of_version(client, champion)
    if other is None:
        return False, f"{own}. Not compared with {than}, whose losses cannot be read."
    found = difference(score, other)
    better = "better" if found.bits_per_byte > 0 else "worse"
    of = "of the paired difference" if found.paired else "unpaired, since the tokens differ"
    words = (
        f"{own}, {abs(found.bits_per_byte):.4f} {better} than {than} "
        f"(standard error {found.standard_error:.4f}, {of})."
    )
    if found.is_certain:
        return True, f"{words} The champion."
    return False, f"{words} Version {champion.version} remains the champion."


def score_of_version(client: "MlflowClient", version: "ModelVersion") -> Score | None:
    """Return the score of a version; None if its run is gone, or has none that can be read."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(str(version.run_id))
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise  # the store does not work at the moment
        return None
    return score_of(client, run)


def score_of(client: "MlflowClient", run: "Run") -> Score | None:
    """Return the score that a run recorded; None if it has none, or one that cannot be read.

    The files are listed first: a server gives the same error for a missing file as for one that it
    cannot read at the moment.
    """
    listed = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, FOLDER)}
    if not listed.issuperset(SCORE_FILES):
        return None
    evaluation_text, table_text = (read_score_file(client, run, name) for name in SCORE_FILES)
    try:
        evaluation, table = json.loads(evaluation_text), csv.DictReader(table_text.splitlines())
        return Score(
            bits_per_byte=evaluation["bits_per_byte"],
            standard_error=evaluation["standard_error"],
            tokens=evaluation["tokens"],
            bytes=evaluation["bytes"],
            context=evaluation["context"],
            tokenizer=run.data.tags["tokenizer_fingerprint"],
            chunks=[(float(row["loss"]), int(row["tokens"])) for row in table],
        )
    except (ValueError, KeyError):
        return None


def read_score_file(client: "MlflowClient", run: "Run", name: str) -> str:
    """Return the text of one of the SCORE_FILES of a run."""
    with TemporaryDirectory() as scratch:
        file = client.download_artifacts(run.info.run_id, f"{FOLDER}/{name}", scratch)
        return Path(file).read_text(encoding="utf-8")
