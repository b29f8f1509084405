"""A tracking server that comes back empty, is exchanged for another, or has no room left."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import TRACKED
from tests.mlflow_lab import MlflowServer, Recorded, only_run, recorded, served, wait_for_run
from tests.small_disk import OWN_MOUNTS, needs_small_disk

TRAIN = ("python", "-m", "stages", "train")
OF_TRAIN = {
    "checkpoints/best/config.json",
    "checkpoints/best/model.safetensors",
    "samples_while_training.json",
}


def has_trained(run: Any) -> bool:
    """Return whether a run has points."""
    return "train/loss" in run.data.metrics


def assert_it_has_the_training(found: Recorded, steps: int) -> None:
    """Assert that a store has all that `train` records."""
    assert found.run.info.status == "FINISHED"
    assert found.run.info.run_name.startswith("texts 29K")
    assert found.run.data.params["train.max_steps"] == str(steps)
    names = sorted(used.dataset.name for used in found.run.inputs.dataset_inputs)
    assert names == ["corpus", "shards/train", "shards/val", "tokens"]
    assert found.steps("train/loss") == list(range(10, steps + 1, 10))
    assert found.model.status == "READY"
    assert found.artifacts() >= OF_TRAIN


def test_a_server_that_comes_back_empty_gets_the_run_from_its_beginning(
    new_project: Callable[..., Any], tmp_path: Path
) -> None:
    steps = 3_500
    project = new_project(max_steps=str(steps), eval_interval="200", batch_tokens="2048")
    with served(MlflowServer(tmp_path / "first")) as first:
        train = project.start(*TRAIN, MLFLOW_TRACKING_URI=first.uri, **TRACKED)
        wait_for_run(first.uri, has_trained, 60, "no record")
        first.kill()
        with served(MlflowServer(tmp_path / "second", port=first.port)) as second:
            assert train.poll() is None, "it ended before the server came back"
            output, _ = train.communicate(timeout=240)
            assert train.returncode == 0, output
            assert_it_has_the_training(recorded(second.uri), steps)


def test_another_server_gets_what_the_first_was_given_and_the_first_what_it_missed(
    new_project: Callable[..., Any], tmp_path: Path
) -> None:
    project = new_project()
    with (
        served(MlflowServer(tmp_path / "first")) as first,
        served(MlflowServer(tmp_path / "second")) as second,
    ):
        keep = {"NANOGPT_KEEP_CHECKPOINTS": "40"}
        project.repro("train", MLFLOW_TRACKING_URI=first.uri, **keep, **TRACKED)
        assert_it_has_the_training(recorded(first.uri), 100)
        output = project.repro(MLFLOW_TRACKING_URI=second.uri, **TRACKED)
        assert_it_has_everything(project, second.uri)
        done = project.run(
            "python", "-m", "stages", "deliver", MLFLOW_TRACKING_URI=first.uri, **TRACKED
        )
        assert done.returncode == 0, done.stdout
        assert_it_has_everything(project, first.uri)
        (ours,), (theirs,) = ([recorded(s.uri)] for s in (first, second))
        # whose weights are nowhere else: the training keeps only its newest checkpoints
        lost = "checkpoints/step-00000040/model.safetensors"
        assert ours.artifacts() - theirs.artifacts() == {lost}
        assert (
            f"the project no longer has artifacts/{lost}; everything else has been recorded"
            in output
        )
        assert theirs.artifacts() <= ours.artifacts()
        assert ours.run.data.metrics == theirs.run.data.metrics
        assert ours.run.data.params == theirs.run.data.params


def assert_it_has_everything(project: Any, uri: str) -> None:
    """Assert that a store has all that the stages record, and a champion."""
    found = recorded(uri)
    assert_it_has_the_training(found, 100)
    assert "bits per byte of unseen text**" in found.run.data.tags["mlflow.note.content"]
    assert "## Samples" in found.run.data.tags["mlflow.note.content"]
    assert found.artifacts() >= {
        "evaluate/evaluation.json",
        "evaluate/run.png",
        "samples/samples.txt",
        "statistics/statistics.json",
    }
    (registered,) = found.client.search_registered_models()
    lineage = project.run(
        *("python", "-m", "stages", "lineage", f"models:/{registered.name}@champion"),
        MLFLOW_TRACKING_URI=uri,
    )
    assert lineage.returncode == 0, lineage.stdout
    assert "is as it was written" in lineage.stdout


@needs_small_disk
def test_a_server_whose_disk_is_full_gets_the_rest_when_there_is_room(
    new_project: Callable[..., Any], tmp_path: Path
) -> None:
    steps = 2_500
    project = new_project(max_steps=str(steps), eval_interval="200", batch_tokens="2048")
    disk = tmp_path / "disk"
    disk.mkdir()
    on_disk = ("--backend-store-uri", f"sqlite:///{disk}/server.db")
    on_disk += ("--artifacts-destination", f"{disk}/artifacts")
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'
    wrapper = (*OWN_MOUNTS, "sh", "-c", mount, str(disk))
    with served(MlflowServer(tmp_path / "server", options=on_disk, wrapper=wrapper)) as server:
        train = project.start(*TRAIN, MLFLOW_TRACKING_URI=server.uri, **TRACKED)
        wait_for_run(server.uri, has_trained, 60, "no record")
        filler = server.seen(disk) / "filler"
        fill(filler)
        assert train.poll() is None, "it ended before the disk was full"
        output, _ = train.communicate(timeout=240)
        assert train.returncode == 0, output
        assert "train: saved the weights" in output
        # of the training process, and of its launcher, which tries again without a device
        *_, line = [text for text in output.splitlines() if "did not accept all entries" in text]
        assert "the rest is kept in " in line
        assert "`python -m stages deliver`" in line
        _, run = only_run(server.uri)
        assert run.info.status == "RUNNING"

        filler.unlink()
        deliver = ("python", "-m", "stages", "deliver")
        for _ in range(2):  # the second finds nothing to do
            done = project.run(*deliver, MLFLOW_TRACKING_URI=server.uri, **TRACKED)
            assert done.returncode == 0, done.stdout
            assert_it_has_the_training(recorded(server.uri), steps)


def fill(file: Path) -> None:
    """Write into a file until its disk is full, and stays so for a while."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12):
            for _ in range(10):
                try:
                    while filler.write(bytes(size)):
                        pass
                except OSError:
                    time.sleep(0.05)
        os.fsync(filler.fileno())
