"""A disk that fills up has its own message and exit code, and loses nothing."""

import json
import shutil
from collections.abc import Callable
from typing import Any

from tests.conftest import TRACKED
from tests.small_disk import assert_it_says_what_is_kept, needs_small_disk, run_on_a_small_disk

pytestmark = needs_small_disk
QUIET = {"NANOGPT_LOG_INTERVAL": "1"}


def test_a_full_disk_ends_a_training_in_its_own_words_and_it_goes_on_from_what_is_kept(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(max_steps="40")
    train = ("python", "-m", "stages", "train")
    environment = {"NANOGPT_STATUS_FILE": str(project.folder / "status.json")}
    # no room for the second checkpoint
    done = run_on_a_small_disk(project, "runs", "500k", *train, **environment)
    assert done.returncode == 28, done.stdout
    assert_it_says_what_is_kept(done.stdout, 20)
    assert json.loads((project.folder / "status.json").read_text())["kind"] == "full"
    assert not list((project.folder / "runs-after").glob("**/reserve"))
    shutil.rmtree(project.folder / "runs")  # what the disk held, on a larger one
    (project.folder / "runs-after").rename(project.folder / "runs")

    # no room for the model
    done = run_on_a_small_disk(project, "models", "64k", *train, **environment)
    assert done.returncode == 28, done.stdout
    assert "resuming after step 20" in done.stdout
    assert "the checkpoint of step 40 is kept" in done.stdout
    assert list((project.folder / "models-after").iterdir()) == []

    again = project.run(*train, **environment, **QUIET)
    assert again.returncode == 0, again.stdout
    assert "already trained; rewriting its model" in again.stdout


def test_a_disk_without_room_for_mlflows_copy_of_the_model_loses_nothing(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(max_steps="40")
    status = project.folder / "status.json"
    # It holds both checkpoints; links are impossible, for models/gpt is on another disk.
    done = run_on_a_small_disk(
        *(project, "runs", "680k", "python", "-m", "stages", "train"),
        **TRACKED,
        NANOGPT_STATUS_FILE=str(status),
    )
    assert done.returncode == 28, done.stdout
    assert_it_says_what_is_kept(done.stdout, 40)
    assert json.loads(status.read_text())["kind"] == "full"
    assert not list((project.folder / "runs-after").glob("**/reserve"))


def test_another_stage_says_it_and_leaves_nothing_half_made(
    new_project: Callable[..., Any],
) -> None:
    project = new_project()
    done = run_on_a_small_disk(project, "data", "4k", "python", "-m", "stages", "download")
    assert done.returncode == 28, done.stdout
    assert "download: no space left on the disk" in done.stdout
    assert "Traceback" not in done.stdout
    assert list((project.folder / "data-after").iterdir()) == []
