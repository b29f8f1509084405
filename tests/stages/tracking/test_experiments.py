"""Experiments that began from one commit are children of one run."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from stages.tracking.delivery import deliver
from stages.tracking.experiments import PARENT_TAG
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.outbox import Outbox
from stages.tracking.store import MODEL_TAG, newest_run

FIRST, SECOND = "1" * 40, "2" * 40  # commits


@pytest.fixture(autouse=True)
def no_tracking_uri(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def record(model_id: str, commit: str | None) -> None:
    """Record a run, as that of an experiment from a commit."""
    outbox = Outbox(Path("runs/tracking") / model_id)
    outbox.append("status", status="RUNNING")
    if commit:
        outbox.append("experiment", commit=commit)
    outbox.append("status", status="FINISHED")
    assert deliver(outbox, model_id) is None


def parents() -> dict[str, str | None]:
    """Return the name of each model's parent run, by the model's id."""
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {
        run.data.tags[MODEL_TAG]: names.get(run.data.tags.get(PARENT_TAG))
        for run in runs
        if MODEL_TAG in run.data.tags
    }


def test_experiments_from_one_commit_have_one_parent() -> None:
    record("a", FIRST)
    record("b", FIRST)
    record("c", SECOND)
    record("d", None)
    first, second = f"experiments from {FIRST[:7]}", f"experiments from {SECOND[:7]}"
    assert parents() == {"a": first, "b": first, "c": second, "d": None}
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 4 + 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_another_experiment_is_used_if_a_variable_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lyrics")
    record("a", None)
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    assert client.get_experiment_by_name(EXPERIMENT) is None
    experiment = client.get_experiment_by_name("lyrics")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert newest_run() == (experiment.experiment_id, run.info.run_id, False)
    assert (Path.cwd() / "mlartifacts").as_uri() == experiment.artifact_location


def test_the_run_to_watch_is_that_of_a_model() -> None:
    record("a", FIRST)
    found = newest_run()
    assert found is not None
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    assert client.get_run(found[1]).data.tags[MODEL_TAG] == "a"
