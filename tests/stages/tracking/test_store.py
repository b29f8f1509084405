"""A store that is damaged, unreachable or has deleted runs: nothing is lost, one line says so."""

import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from stages.tracking import sending, tracker
from stages.tracking.delivery import deliver
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.outbox import Outbox
from stages.tracking.store import connect
from stages.tracking.tracker import Tracker

SECRET = "s3cr3t-Pa55"


@pytest.fixture(autouse=True)
def no_tracking_uri(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def record() -> None:
    """Record a metric as a stage does."""
    with Tracker("model", enabled=True) as tracker:
        tracker.record("metrics", step=1, values={"train/loss": 1.0})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a store and an outbox that has delivered a metric, a run name and a file to it."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        outbox = Outbox(folder / "runs/tracking/model")
        outbox.append("metrics", step=1, values={"train/loss": 2.0})
        outbox.append("tags", values={"mlflow.runName": "a name"})
        note = folder / "note.txt"
        note.write_text("a note")
        outbox.append_files("artifacts", note, path=None)
        assert deliver(outbox, "model") is None
        mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def outbox(recorded: Path, workspace: Path) -> Outbox:
    """Copy that folder to the workspace; return its outbox, with one more metric pending."""
    shutil.copytree(recorded, workspace, dirs_exist_ok=True)
    outbox = Outbox(workspace / "runs/tracking/model")
    outbox.append("metrics", step=2, values={"train/loss": 1.0})
    return outbox


def only_run() -> tuple[MlflowClient, Run]:
    """Return the only run in the store."""
    client = connect()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def assert_all_is_there() -> None:
    """Assert that the only run has its name and both metrics."""
    client, run = only_run()
    assert run.info.run_name == "a name"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2]


def test_a_deleted_experiment_is_restored(
    outbox: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run = only_run()
    client.delete_experiment(run.info.experiment_id)
    assert deliver(outbox, "model") is None
    assert_all_is_there()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tracking: the experiment nanogpt was deleted; restoring it")


def test_a_deleted_run_is_restored(outbox: Outbox, capsys: pytest.CaptureFixture[str]) -> None:
    client, run = only_run()
    client.delete_run(run.info.run_id)
    assert deliver(outbox, "model") is None
    assert_all_is_there()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tracking: the run a name was deleted; restoring it")


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_deletion_during_a_delivery_loses_nothing(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    client, run = only_run()
    send = sending.send

    def delete_first(*arguments: Any) -> None:
        monkeypatch.setattr(sending, "send", send)
        if what == "run":
            client.delete_run(run.info.run_id)
        else:
            client.delete_experiment(run.info.experiment_id)
        send(*arguments)

    monkeypatch.setattr(sending, "send", delete_first)
    problem = deliver(outbox, "model")
    assert problem is not None
    assert "must be in the 'active' state" in problem
    assert deliver(outbox, "model") is None
    assert_all_is_there()


def test_a_run_that_is_gone_for_good_is_recorded_again(outbox: Outbox) -> None:
    _, run = only_run()
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        for table in ("metrics", "latest_metrics", "tags"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM runs")
    assert deliver(outbox, "model") is None
    assert_all_is_there()
    assert only_run()[1].info.run_id != run.info.run_id
    assert not outbox.has_pending()


def test_another_database_gets_all_that_the_first_was_given(
    outbox: Outbox, run_python: Callable[..., Any]
) -> None:
    assert deliver(outbox, "model") is None
    Path("mlflow.db").rename("mlflow.db.damaged")
    mlflow.set_tracking_uri(None)
    for _ in range(2):  # the second finds nothing to do
        done = run_python("-m", "stages", "deliver")
        assert (done.returncode, done.stdout) == (0, "tracking: model delivered\n")
    mlflow.set_tracking_uri(f"sqlite:///../{Path.cwd().name}/mlflow.db")  # MLflow keeps the first
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "a name"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]


@pytest.mark.parametrize("gone", ["deleted", "for good"])
def test_a_run_that_was_deleted_on_purpose_does_not_come_back_with_the_next_delivery_of_others(
    outbox: Outbox, run_python: Callable[..., Any], gone: str
) -> None:
    assert deliver(outbox, "model") is None
    client, run = only_run()
    client.delete_run(run.info.run_id)
    if gone == "for good":
        with closing(sqlite3.connect("mlflow.db")) as connection, connection:
            for table in ("metrics", "latest_metrics", "tags", "runs"):
                connection.execute(f"DELETE FROM {table}")
    done = run_python("-m", "stages", "deliver")
    assert (done.returncode, done.stdout) == (0, "tracking: model delivered\n")
    assert client.search_runs([run.info.experiment_id]) == []


@pytest.mark.parametrize("damage", ["overwritten", "zeros"])
def test_a_damaged_database_is_reported_in_one_line_and_recorded_again(
    outbox: Outbox,
    run_python: Callable[..., Any],
    workspace: Path,
    capfd: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    database = workspace / "mlflow.db"
    content = database.read_bytes()
    bad = {
        "overwritten": b"no database" * 1000,
        "zeros": content[:8192] + bytes(len(content) - 8192),
    }
    database.write_bytes(bad[damage])
    record()
    printed = capfd.readouterr()
    assert printed.err == ""
    (line,) = printed.out.splitlines()
    assert line.startswith(
        "tracking: mlflow.db did not accept all entries (it is damaged; run `mv mlflow.db "
    )
    database.rename("mlflow.db.damaged")
    done = run_python("-m", "stages", "deliver")
    assert (done.returncode, done.stdout) == (0, "tracking: model delivered\n")
    mlflow.set_tracking_uri(None)
    client = MlflowClient(f"sqlite:///{workspace}/../{workspace.name}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "a name"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2, 1]


def test_a_missing_driver_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)
    uri = f"postgresql://alice:{SECRET}@127.0.0.1:9/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    record()
    printed = capfd.readouterr()
    assert printed.err == ""
    (line,) = printed.out.splitlines()
    assert line.startswith(
        "tracking: postgresql://127.0.0.1:9/runs did not accept all entries (it needs "
    )
    assert "`pip install 'psycopg" in line


def test_no_line_and_no_entry_shows_the_credentials(
    run_python: Callable[..., Any],
    workspace: Path,
    dead_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = dead_url.replace("://", f"://alice:{SECRET}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with Tracker("model", enabled=True) as tracker:
        curves = tracker.live_curves()
        tracker.record("tags", values={"corpus": f"https://alice:{SECRET}@host/a"})
    printed = capfd.readouterr()
    (line,) = printed.out.splitlines()
    assert curves == f"{dead_url} (make watch: this run)"
    assert line.startswith(f"tracking: {dead_url} did not accept all entries")
    watched = run_python("-m", "stages", "watch", dead_url, "--", "true")
    assert watched.returncode == 75
    assert f"{dead_url} is not responding" in watched.stderr
    sent = run_python("-m", "stages", "deliver")
    assert sent.returncode == 75
    kept = (workspace / "runs/tracking/model/outbox.jsonl").read_text()
    said = "".join((printed.err, line, watched.stdout, watched.stderr, sent.stdout, sent.stderr))
    for secret in (SECRET, "alice"):
        assert secret not in said + kept
    assert "https://host/a" in kept


def test_a_delivery_that_dies_is_reported(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tries = 0

    def die_in_the_second(outbox: Outbox, model_id: str, **options: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise RuntimeError("a bug")

    monkeypatch.setattr(tracker, "deliver", die_in_the_second)
    monkeypatch.setattr(tracker, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with Tracker("model", enabled=True) as recording:
        recording.thread.join()
    assert "did not accept all entries (the delivery thread died)" in capfd.readouterr().out


def test_a_failing_store_takes_a_small_share_of_the_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, tried = [], threading.Event()

    def fail(outbox: Outbox, model_id: str, **options: Any) -> str:
        tries.append(time.thread_time())
        while time.thread_time() < tries[-1] + 0.5:
            pass
        tried.set()
        return "no"

    monkeypatch.setattr(tracker, "deliver", fail)
    monkeypatch.setattr(tracker, "POLL_SECONDS", 0.01)
    with Tracker("model", enabled=True):
        tried.wait()
        time.sleep(1.5)
    assert len(tries) == 2  # the first, and the last when the stage has ended


def test_a_database_is_created_at_the_users_uri(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/new/runs.db")
    record()
    assert capfd.readouterr().out == ""
    assert (workspace / "new/runs.db").is_file()
    assert not (workspace / "mlflow.db").exists()


@pytest.mark.parametrize("tool", ["ui", "watch"])
def test_make_ui_and_watch_report_a_damaged_database_in_one_line(
    run_python: Callable[..., Any], workspace: Path, tool: str
) -> None:
    (workspace / "mlflow.db").write_bytes(b"no database" * 1000)
    server = [sys.executable, "-m", "stages", "ui", "1"]
    arguments = ["1"] if tool == "ui" else ["http://127.0.0.1:1", "--", *server]
    done = run_python("-m", "stages", tool, *arguments)
    assert done.returncode == 75
    assert len(done.stderr.splitlines()) == 1
    assert "it is damaged; run `mv mlflow.db" in done.stderr
