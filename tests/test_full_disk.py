"""A disk that fills up has its own message and exit code, and loses nothing."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

QUIET = {"NANOGPT_LOG_INTERVAL": "1"}
OWN_MOUNTS = (
    ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
)


@pytest.fixture(scope="session", autouse=True)
def may_mount() -> None:
    """Skip these tests where a process cannot mount a small file system of its own."""
    command = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this system lets no process mount a file system of its own")


def run_on_a_small_disk(
    project: Any, folder: str, size: str, *command: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command while `folder` of the project is a disk of this size, empty at the start.

    What lies there in the end is copied to `folder`-after.
    """
    script = f"""
        mkdir -p {folder} && mount -t tmpfs -o size={size} tmpfs {folder} && "$@"
        code=$?; cp -R {folder} {folder}-after; exit $code
    """
    done: subprocess.CompletedProcess[str] = project.run(
        *OWN_MOUNTS, "sh", "-c", script, "sh", *command, **QUIET, **environment
    )
    return done


@pytest.mark.parametrize(
    ("size", "step", "tracking"),
    [
        ("500k", 20, "false"),  # no room for the second checkpoint
        ("900k", 40, "true"),  # nor for MLflow's copy of the model, after both and the weights
    ],
)
def test_a_full_disk_ends_a_training_in_its_own_words_and_it_goes_on_from_what_is_kept(
    new_project: Callable[..., Any], size: str, step: int, tracking: str
) -> None:
    project = new_project(max_steps="40")
    status = project.folder / "status.json"
    done = run_on_a_small_disk(
        *(project, "runs", size, "python", "-m", "stages", "train"),
        NANOGPT_TRACKING=tracking,
        NANOGPT_STATUS_FILE=str(status),
    )
    assert done.returncode == 28, done.stdout
    (line,) = [text for text in done.stdout.splitlines() if "no space left on the disk" in text]
    assert f"the checkpoint of step {step} is kept in runs/" in line
    assert "free some space and run again to continue from there" in line
    assert json.loads(status.read_text())["kind"] == "full"
    assert not list((project.folder / "runs-after").glob("**/reserve"))

    if step == 40:
        return  # written again by the next run: see below
    shutil.rmtree(project.folder / "runs")  # what the disk held, on a larger one
    (project.folder / "runs-after").rename(project.folder / "runs")
    again = project.run("python", "-m", "stages", "train", NANOGPT_TRACKING="false", **QUIET)
    assert again.returncode == 0, again.stdout
    assert "continuing after step 20" in again.stdout


def test_a_model_that_finds_no_space_is_written_by_the_next_run(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(max_steps="40")
    done = run_on_a_small_disk(
        project, "models", "64k", "python", "-m", "stages", "train", NANOGPT_TRACKING="false"
    )
    assert done.returncode == 28, done.stdout
    assert "the checkpoint of step 40 is kept" in done.stdout
    assert list((project.folder / "models-after").iterdir()) == []
    again = project.run("python", "-m", "stages", "train", NANOGPT_TRACKING="false", **QUIET)
    assert again.returncode == 0, again.stdout
    assert "already trained; rewriting its model" in again.stdout


def test_another_stage_says_it_and_leaves_nothing_half_made(
    new_project: Callable[..., Any],
) -> None:
    project = new_project()
    done = run_on_a_small_disk(project, "data", "4k", "python", "-m", "stages", "download")
    assert done.returncode == 28, done.stdout
    assert "download: no space left on the disk" in done.stdout
    assert "Traceback" not in done.stdout
    assert list((project.folder / "data-after").iterdir()) == []
