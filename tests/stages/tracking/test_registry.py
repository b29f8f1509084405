"""Registered models: who is the champion, and by what evidence."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from stages.tracking.delivery import deliver
from stages.tracking.registry import CHAMPION, Score, difference, registered_name, text_id
from stages.tracking.store import connect
from stages.tracking.tracker import Tracker

RUNS, CONTEXT, BYTES = 50, 64, 6_400


def score(*shifts: float, noise: int = 1, context: int = CONTEXT, tokenizer: str = "a") -> Score:
    """Return a score whose runs differ much from each other and little from other models' runs.

    `shifts` are added to the loss of a token, in turns; `noise` seeds what is the model's own.
    """
    text, own = random.Random(0), random.Random(noise)
    losses = [
        context * (2 + text.gauss(0, 0.5) + own.gauss(0, 0.01) + shifts[n % len(shifts)])
        for n in range(RUNS * CONTEXT // context)
    ]
    n, tokens = len(losses), RUNS * CONTEXT
    loss = sum(losses) / tokens
    return Score(
        bits_per_byte=loss * tokens / (np.log(2) * BYTES),
        standard_error=float(np.std(losses, ddof=1)) / context / n**0.5,
        tokens=tokens,
        bytes=BYTES,
        context=context,
        tokenizer=tokenizer,
        chunks=[(loss, context) for loss in losses],
    )


def test_a_small_but_steady_difference_is_certain_only_when_paired() -> None:
    better, other = score(-0.01), score(0.0, noise=2)
    found = difference(better, other)
    assert found.paired
    assert found.is_certain
    assert found.bits_per_byte == pytest.approx(0.01 * 3_200 / 6_400 / np.log(2), rel=0.5)
    assert not difference(other, better).is_certain
    unpaired = difference(replace(better, tokenizer="b"), other)
    assert not unpaired.paired
    assert unpaired.bits_per_byte == found.bits_per_byte
    assert unpaired.standard_error > 10 * found.standard_error
    assert not unpaired.is_certain


def test_the_standard_error_is_that_of_the_mean_of_the_pairs() -> None:
    ours, theirs = score(0.0), score(0.02, noise=2)
    pairs = zip(ours.chunks, theirs.chunks, strict=True)
    bits = [(b - a) / np.log(2) / BYTES * RUNS for (a, _), (b, _) in pairs]
    expected = np.std(bits, ddof=1) / RUNS**0.5
    assert difference(ours, theirs).standard_error == pytest.approx(expected)


def test_a_difference_that_comes_and_goes_is_not_certain() -> None:
    assert not difference(score(-1.0, 0.99), score(0.0)).is_certain


def test_runs_of_other_lengths_are_paired_by_their_common_multiple() -> None:
    ours = score(0.0)
    halves = [(loss / 2, count // 2) for loss, count in ours.chunks for _ in range(2)]
    theirs = replace(ours, chunks=halves, context=CONTEXT // 2)
    found = difference(ours, theirs)
    assert found.paired
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_a_name_says_corpus_and_text() -> None:
    val = {"documents": 3, "bytes": 500}
    manifest = {"corpus_manifest_sha256": "1", "split": {"seed": 3}, "splits": {"val": val}}
    own = text_id(manifest)
    assert registered_name("my texts", own) == f"my-texts-{own}"
    assert text_id({**manifest, "tokenizer_fingerprint": "other", "n_vocab": 9}) == own
    others = [
        {**manifest, "corpus_manifest_sha256": "2"},
        {**manifest, "split": {"seed": 4}},
        {**manifest, "splits": {"val": {**val, "bytes": 501}}},
        {**manifest, "imported": {"sha256": {"val.bin": "3"}}},
    ]
    assert len({own, *map(text_id, others)}) == 5


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Records a model with a score in MLflow's local store; returns the id of its run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def record(model_id: str, score: Score, *, has_model: bool = True) -> str:
        tracker = Tracker(model_id, enabled=True)
        assert tracker.outbox is not None
        values = {"corpus": "texts", "tokenizer_fingerprint": score.tokenizer}
        tracker.record("tags", values={**values, "mlflow.runName": model_id})
        assert deliver(tracker.outbox, model_id) is None
        client, run = connect(), run_of(model_id)
        if has_model and not models_of(client, run):
            model = client.create_logged_model(
                run.info.experiment_id, source_run_id=run.info.run_id
            )
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        evaluation = {
            name: getattr(score, name)
            for name in ("bits_per_byte", "standard_error", "tokens", "bytes", "context")
        }
        folder = tmp_path / "evaluate"
        folder.mkdir(exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        rows = [f"{loss!r},{count}" for loss, count in score.chunks]
        (folder / "val_losses.csv").write_text("\n".join(["loss,tokens", *rows]) + "\n")
        tracker.record_files("artifacts", folder, path="evaluate")
        tracker.record("register", text="abc123")
        assert deliver(tracker.outbox, model_id) is None
        return str(run.info.run_id)

    return record


def run_of(model_id: str) -> Any:
    """Return the run of a model."""
    experiments = [experiment.experiment_id for experiment in connect().search_experiments()]
    (run,) = connect().search_runs(experiments, f"tags.`nanogpt.model_id` = '{model_id}'")
    return run


def models_of(client: MlflowClient, run: Any) -> list[Any]:
    """Return the models that a run logged."""
    mine = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], mine))


def versions() -> dict[str, str]:
    """Return the description of each version."""
    found = connect().search_model_versions("name = 'texts-abc123'")
    return {str(version.version): str(version.description) for version in found}


def champion() -> str:
    """Return the run of the champion."""
    return str(connect().get_model_version_by_alias("texts-abc123", CHAMPION).run_id)


def test_the_champion_changes_only_for_a_better_model(evaluated: Callable[..., str]) -> None:
    first = evaluated("first", score(0.0))
    assert champion() == first
    evaluated("worse", score(0.02, noise=2))
    evaluated("equal", score(0.0, noise=3))
    assert champion() == first
    better = evaluated("better", score(-0.02, noise=4))
    assert champion() == better
    descriptions = versions()
    assert descriptions["1"].endswith(
        "bits per byte of unseen text. The champion, as the first version."
    )
    assert "worse than version 1" in descriptions["2"]
    assert descriptions["2"].endswith("Version 1 remains the champion.")
    assert descriptions["3"].endswith("Version 1 remains the champion.")
    assert " better than version 1, the champion at the time (standard error " in descriptions["4"]
    assert descriptions["4"].endswith(", of the paired difference). The champion.")
    version = connect().get_model_version("texts-abc123", "4")
    assert version.tags["bits_per_byte"] == f"{score(-0.02, noise=4).bits_per_byte:.4f}"
    (model,) = models_of(connect(), run_of("better"))
    assert version.source == model.artifact_location


def test_a_model_measured_again_stays_one_version(evaluated: Callable[..., str]) -> None:
    first = evaluated("first", score(0.0))
    evaluated("second", score(-0.1, noise=2))
    assert evaluated("first", score(-0.3, noise=2)) == first
    assert champion() == first
    assert set(versions()) == {"1", "2"}
    evaluated("first", score(0.3, noise=2))
    assert "The champion, measured again" in versions()["1"]


def test_a_champion_whose_losses_are_gone_stays(evaluated: Callable[..., str]) -> None:
    first = evaluated("first", score(0.0))
    for file in Path("mlartifacts").rglob("val_losses.csv"):
        file.unlink()
    evaluated("better", score(-0.5, noise=2))
    assert champion() == first
    assert "Not compared with version 1" in versions()["2"]


def test_a_run_without_a_model_is_not_registered(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("first", score(0.0), has_model=False)
    assert "first is not registered: MLflow has no model of this run" in capsys.readouterr().out
    assert versions() == {}


def test_a_run_without_an_evaluation_is_not_registered_and_blocks_nothing(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("first", score(0.0))
    for file in Path("mlartifacts").rglob("evaluation.json"):
        file.unlink()
    tracker = Tracker("first", enabled=True)
    assert tracker.outbox is not None
    tracker.record("register", text="def456")
    tracker.record("tags", values={"after": "it"})
    assert deliver(tracker.outbox, "first") is None
    assert "first is not registered: MLflow has no evaluation of this" in capsys.readouterr().out
    assert run_of("first").data.tags["after"] == "it"
