"""What a finished run of the flow shows."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pipelines.result import mlflow_links
from stages.tracking.delivery import deliver
from stages.tracking.outbox import Outbox


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("experiment", ["nanogpt", "lyrics"])
def test_the_link_leads_to_the_run_in_whichever_experiment_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
    model = tmp_path / "models/gpt"
    model.mkdir(parents=True)
    (model / "lineage.json").write_text(json.dumps({"model_id": "abc"}))
    outbox = Outbox(tmp_path / "runs/tracking/abc")
    outbox.append("status", status="FINISHED")
    assert deliver(outbox, "abc") is None
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    (link,) = mlflow_links()
    assert f"/experiments/{found.experiment_id}/runs/{run.info.run_id}/" in link
