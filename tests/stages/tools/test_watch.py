"""`make watch`: the run it links to, and that the link works."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from stages.tools.watch import links
from stages.tracking.delivery import deliver
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.outbox import Outbox
from stages.tracking.samples import TABLE
from stages.tracking.store import newest_run

ROOT = Path(__file__).parents[3]
SERVER = "http://127.0.0.1:5001"


@pytest.fixture(autouse=True)
def no_tracking_uri(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def record(model_id: str, status: str) -> str:
    """Record a run with that status in the workspace's store; return its id."""
    outbox = Outbox(Path("runs/tracking") / model_id)
    outbox.append("metrics", step=10, values={"train/loss": 3.0})
    outbox.append("status", status=status)
    assert deliver(outbox, model_id) is None
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], f"tags.`nanogpt.model_id` = '{model_id}'"
    )
    return str(run.info.run_id)


def test_the_running_training_is_shown_before_newer_ones() -> None:
    record("older", "RUNNING")
    running = record("newer", "RUNNING")
    record("newest", "FINISHED")
    found = newest_run()
    assert found is not None
    assert found[1:] == (running, True)
    curves, samples = links(SERVER)
    page = f"{SERVER}/#/experiments/{found[0]}/runs/{running}"
    mode = "?workflowType=machine_learning"
    assert curves == f"live curves: {page}/model-metrics{mode}"
    assert samples == f"samples: {page}/artifacts/{TABLE}{mode}"


def test_without_a_running_training_the_newest_is_shown() -> None:
    record("older", "FINISHED")
    newest = record("newest", "KILLED")
    found = newest_run()
    assert found is not None
    assert found[1:] == (newest, False)
    assert links(SERVER)[0].startswith(f"no training run is active; the newest run: {SERVER}/#/")


def test_an_empty_store_is_reported() -> None:
    assert newest_run() is None
    assert links(SERVER) == [
        "nothing has been recorded yet; rerun `make watch` once training has started"
    ]


def test_a_server_that_does_not_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, dead_url: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConnectionError, match=f"{dead_url} is not responding"):
        newest_run()


def test_make_watch_serves_the_page_and_prints_its_url(workspace: Path) -> None:
    run_id = record("running", "RUNNING")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("-f", str(ROOT / "Makefile"), "-o", ".venv/.installed", f"UI_PORT={port}")
    command = ["make", *arguments, "watch"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):  # of the `make test` around this
        environment.pop(name, None)
    serving = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert serving.stdout is not None
        said = []
        for line in serving.stdout:
            said.append(line)
            if line.startswith("live curves:"):
                break
        assert f"http://127.0.0.1:{port}/#/experiments/" in said[-1]
        assert f"/runs/{run_id}/model-metrics" in said[-1]
        assert not any("Warning" in line for line in said)
        api = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get"
        run = requests.get(api, params={"run_id": run_id}, timeout=20).json()["run"]
        assert run["info"]["status"] == "RUNNING"
        again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert again.returncode == 0  # it serves already
        assert again.stdout.splitlines()[0] == said[-1].strip()
    finally:
        os.killpg(serving.pid, signal.SIGINT)
        deadline = time.monotonic() + 30
        serving.communicate(timeout=30)
        assert time.monotonic() < deadline
