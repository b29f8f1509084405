"""The content of MLflow after a run: with a live server, a dead one, and one that recovers."""

import getpass
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from stages.tracking import delivery
from stages.tracking.delivery import deliver, deliver_checkpoints
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.outbox import Outbox
from stages.tracking.samples import TABLE, SampleTable
from stages.tracking.tracker import Tracker
from stages.tracking.view import TAG as VIEW
from tests.conftest import TRACKED
from tests.waiting import wait_for

DEAD = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def only_run(folder: Path) -> tuple[MlflowClient, Run]:
    """Return the only run in a project's local store."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_a_run_has_everything_about_its_model(built: Any) -> None:
    client, run = only_run(built.folder)
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("texts 29K · ")
    assert run.data.tags["corpus"] == "texts"
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert "none" not in {value.lower() for value in run.data.tags.values()}
    assert run.data.params["model.n_layer"] == "2"
    assert run.data.params["train.max_steps"] == "100"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    used = {i.dataset.name: i.dataset for i in run.inputs.dataset_inputs}
    assert used.keys() == {"corpus", "tokens", "shards/train", "shards/val"}
    origin = json.loads((built.folder / "models/gpt/lineage.json").read_text())["data"]
    assert origin["corpus_manifest_sha256"].startswith(used["corpus"].digest)
    assert json.loads(used["corpus"].source) == {"source": "files", "uri": "data/corpus"}
    for metric in ("train/loss", "train/lr", "train/grad_norm", "speed/tokens_per_second"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
        assert steps == list(range(10, 101, 10)), metric
    val_steps = [p.step for p in client.get_metric_history(run.info.run_id, "val/loss")]
    assert val_steps == list(range(20, 101, 20))
    assert "system/cpu_utilization_percentage" in run.data.metrics
    headline = json.loads((built.folder / "metrics/evaluate.json").read_text())
    recorded = {n: v for n, v in run.data.metrics.items() if n.startswith("val/full/")}
    assert recorded == {f"val/full/{name}": value for name, value in headline.items()}
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert {metric.key: metric.value for metric in model.metrics} == recorded
    assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics} == {
        ("shards/val", used["shards/val"].digest)
    }


def test_a_run_has_a_note_and_the_experiment_a_view(built: Any) -> None:
    client, run = only_run(built.folder)
    note = run.data.tags["mlflow.note.content"]
    assert "bits per byte of unseen text**, " in note
    assert "the king" in note.partition("## Samples")[2]
    assert f"runs:/{run.info.run_id}/model" in note
    view = json.loads(client.get_experiment(run.info.experiment_id).tags[VIEW])
    assert view["orderByKey"] == "metrics.`val/full/bits_per_byte`"
    for column in view["selectedColumns"]:
        kind, _, name = column.partition(".")
        values = {**run.data.params, **run.data.metrics, **run.data.tags}
        assert kind == "attributes" or name.strip("`") in values, column


def test_the_first_model_of_a_text_is_its_champion(built: Any) -> None:
    client, run = only_run(built.folder)
    (registered,) = client.search_registered_models()
    assert registered.name.startswith("texts-")
    assert {alias: str(version) for alias, version in registered.aliases.items()} == {
        "champion": "1"
    }
    version = client.get_model_version(registered.name, "1")
    assert version.run_id == run.info.run_id
    uri = f"models:/{registered.name}@champion"
    done = built.run("python", "-m", "stages", "lineage", uri)
    assert done.returncode == 0, done.stdout
    assert f"in mlflow.db, {uri}\n" in done.stdout


def test_a_run_has_checkpoint_metrics_and_samples(built: Any) -> None:
    client, run = only_run(built.folder)

    def names(path: str) -> set[str]:
        return {Path(item.path).name for item in client.list_artifacts(run.info.run_id, path)}

    assert names("checkpoints/best") == {"model.safetensors", "config.json"}
    assert {"evaluate.json", "evaluation.json", "run.png", "run-dark.png"} <= names("evaluate")
    assert {"statistics.json", "lengths.png", "frequencies.png"} <= names("statistics")
    assert names("samples") == {"samples.txt", "samples.jsonl"}


def test_the_logged_model_loads_and_generates(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    client, run = only_run(built.folder)
    (logged,) = client.search_logged_models([run.info.experiment_id])
    mlflow.set_tracking_uri(f"sqlite:///{built.folder / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    (text,) = model.predict(["the king"], params={"max_new_tokens": 5})
    assert text.startswith("the king")
    assert len(text) > len("the king")


def test_a_run_has_the_samples_written_during_training(built: Any) -> None:
    client, run = only_run(built.folder)
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": TABLE, "type": "table"}]
    mlflow.set_tracking_uri(f"sqlite:///{built.folder / 'mlflow.db'}")
    rows = client.load_table(run.info.experiment_id, TABLE, [run.info.run_id])
    assert list(rows["step"])[:1] == [20]
    assert all(rows["text"].str.len() >= 10)
    points = client.get_metric_history(run.info.run_id, "val/bits_per_byte")
    assert [point.step for point in points] == list(range(20, 101, 20))
    bits = {point.step: point.value for point in points}
    assert list(rows["bits_per_byte"]) == pytest.approx(
        [bits[step] for step in rows["step"]], abs=1e-4
    )


def test_a_table_delivered_again_replaces_the_earlier_one(workspace: Path) -> None:
    tracker, table = Tracker("model", enabled=True), SampleTable(workspace)
    assert tracker.outbox is not None
    for step in (1, 2):
        table.add(step, f"text {step}", 2.0, 3.0)
        tracker.record_table(table.file)
        assert deliver(tracker.outbox, "model") is None
    client, run = only_run(workspace)
    file = client.download_artifacts(run.info.run_id, TABLE)
    texts = [row[1] for row in json.loads(Path(file).read_text())["data"]]
    assert texts == ["text 1", "text 2"]


def test_mlflow_logs_nothing_while_it_creates_its_store(
    workspace: Path, run_python: Callable[..., Any]
) -> None:
    script = """
from stages.tracking.tracker import Tracker
with Tracker("model", enabled=True, system_metrics=True) as tracker:
    tracker.record("tags", values={"mlflow.runName": "a name"})
"""
    done = run_python("-c", script)
    assert (done.stdout, done.stderr) == ("", "")
    assert only_run(workspace)[1].info.run_name == "a name"


def test_a_dead_server_loses_nothing(new_project: Callable[..., Any]) -> None:
    project = new_project(max_steps="20", decay="5")
    output = project.repro("train", MLFLOW_TRACKING_URI=DEAD, **TRACKED)
    assert f"tracking: {DEAD} did not accept all entries" in output
    assert "Traceback" not in output
    assert (project.folder / "models/gpt").exists()
    done = project.run("python", "-m", "stages", "deliver")
    assert done.returncode == 0, done.stdout
    client, run = only_run(project.folder)
    assert run.info.status == "FINISHED"
    steps = [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [10, 20]
    assert client.list_artifacts(run.info.run_id, "checkpoints/best")


def test_weights_and_what_follows_wait_for_a_process_without_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table, weights = tmp_path / "table.json", tmp_path / "best"
    table.write_text("{}")
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    outbox = Outbox(tmp_path / "outbox")
    outbox.append_files("artifacts", table, path=None)
    outbox.append("metrics", step=1, values={"train/loss": 1.0})
    outbox.append_files("artifacts", weights, path="checkpoints/best")
    outbox.append("status", status="FINISHED")
    assert deliver(outbox, "model", weights=False) is None
    client, run = only_run(tmp_path)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["table.json"]
    assert run.data.metrics == {"train/loss": 1.0}
    assert run.info.status == "RUNNING"
    assert outbox.has_pending()
    assert deliver(outbox, "model", until=0.0) == "it is slow"
    assert deliver(outbox, "model") is None
    client, run = only_run(tmp_path)
    assert client.list_artifacts(run.info.run_id, "checkpoints/best")
    assert run.info.status == "FINISHED"


def test_delivering_twice_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outbox = Outbox(tmp_path / "outbox")
    outbox.append("tags", values={"mlflow.runName": "a name"})
    for step in (1, 2, 3):
        outbox.append("metrics", step=step, values={"train/loss": 1.0 / step})
    assert deliver(outbox, "model") is None
    outbox.offset_file.unlink()  # as if killed before it could note how far it got
    assert deliver(outbox, "model") is None
    client, run = only_run(tmp_path)
    assert run.info.run_name == "a name"
    assert run.info.start_time == next(outbox.entries(0))[0]["time_ms"]  # not when it was delivered
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in points] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_a_finished_training_run_again_adds_no_second_model(copy_of_built: Any) -> None:
    project = copy_of_built
    client, run = only_run(project.folder)
    (logged,) = client.search_logged_models([run.info.experiment_id])
    cut_off = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id
    )
    again = project.run("python", "-m", "stages", "train", **TRACKED)
    assert "already trained; rewriting its model" in again.stdout
    (found,) = client.search_logged_models([run.info.experiment_id])
    assert (found.model_id, str(found.status)) == (logged.model_id, "READY")
    assert found.model_id != cut_off.model_id
    assert only_run(project.folder)[1].info.status == "FINISHED"


def test_checkpoints_are_kept_as_asked(new_project: Callable[..., Any]) -> None:
    """Of every 40th step and of the last, without the state of the optimizers."""
    project = new_project()
    project.repro("train", NANOGPT_KEEP_CHECKPOINTS="40", **TRACKED)
    client, run = only_run(project.folder)
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")}
    names = {"best", "step-00000040", "step-00000080", "step-00000100"}
    assert kept == {f"checkpoints/{name}" for name in names}
    for folder in kept:
        files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, folder)}
        assert files == {"model.safetensors", "config.json"}

    refused = project.run("python", "-m", "stages", "train", NANOGPT_KEEP_CHECKPOINTS="30")
    assert refused.returncode == 2
    assert "NANOGPT_KEEP_CHECKPOINTS=30 must be a multiple of train.eval_interval (20)" in (
        refused.stdout
    )


def checkpoint_in(project: Path) -> Path:
    """Write the files of a checkpoint and return its folder."""
    folder = project / "runs/abc/step-1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "optimizer.safetensors").write_bytes(b"state")
    return folder


def test_checkpoints_are_uploaded_while_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.05)
    tracker = Tracker("model", enabled=True)  # not entered, it delivers nothing
    assert tracker.outbox is not None
    tracker.record("tags", values={"mlflow.runName": "a name"})
    assert deliver(tracker.outbox, "model") is None
    client, run = only_run(tmp_path)
    with delivery.uploading_checkpoints("model"):
        tracker.record_checkpoint(checkpoint_in(tmp_path))
        path = "checkpoints/step-1"
        wait_for(lambda: client.list_artifacts(run.info.run_id, path), 20, "not uploaded")


def test_checkpoints_wait_for_their_run_and_go_to_another_store_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = checkpoint_in(tmp_path)
    tracker = Tracker("model", enabled=True)  # not entered, it delivers nothing
    for _ in range(2):  # the second time by a session that resumed from it
        tracker.record_checkpoint(weights)
    assert tracker.outbox is not None
    assert len(list(tracker.outbox.checkpoints().entries(0))) == 1
    assert deliver_checkpoints(tracker.outbox, "model") is None
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_experiment_by_name(EXPERIMENT) is None

    tracker.record("tags", values={"mlflow.runName": "a name"})
    for store in ("mlflow.db", "other.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / store}")
        assert deliver(tracker.outbox, "model", redeliver=True) is None
        assert deliver_checkpoints(tracker.outbox, "model", redeliver=True) is None
        client = MlflowClient(f"sqlite:///{tmp_path / store}")
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == "a name"
        found = client.list_artifacts(run.info.run_id, "checkpoints/step-1")
        assert {Path(file.path).name for file in found} == {"model.safetensors", "config.json"}


def test_weights_are_on_the_disk_twice_at_most(new_project: Callable[..., Any]) -> None:
    """That is, once for training and MLflow, and once for DVC, its cache and models/gpt."""
    project = new_project(max_steps="20", decay="5")
    project.repro("train", **TRACKED)
    model = (project.folder / "models/gpt/model.safetensors").read_bytes()
    files = [file for file in project.folder.rglob("*") if file.is_file()]
    same = [file for file in files if file.stat().st_size == len(model)]
    same = [file for file in same if file.read_bytes() == model]
    inodes = {file.stat().st_ino: str(file) for file in same}
    # a checkpoint, the best, the model, DVC's cache, and in MLflow the best and the model
    assert len(same) == 6
    assert len(inodes) == 2, inodes
