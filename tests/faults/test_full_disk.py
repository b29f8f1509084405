"""A disk that fills up during a run: it fails at once, and what was made is used later."""

import shutil
from collections.abc import Callable
from typing import Any

from tests.small_disk import assert_it_says_what_is_kept, needs_small_disk, run_on_a_small_disk

pytestmark = needs_small_disk
BUILD = ("python", "-m", "pipelines.build", "--target")


def weights(project: Any) -> bytes:
    """Return the content of the finished model's file."""
    content: bytes = (project.folder / "models/gpt/model.safetensors").read_bytes()
    return content


def test_a_full_disk_during_a_checkpoint_loses_nothing(new_project: Callable[..., Any]) -> None:
    undisturbed = new_project("undisturbed", max_steps="40")
    undisturbed.repro("train")
    project = new_project(max_steps="40")
    done = run_on_a_small_disk(project, "runs", "500k", *BUILD, "train")
    assert done.returncode == 28, done.stdout
    (reason,) = [line for line in done.stdout.splitlines() if line.startswith("build: train: ")]
    assert_it_says_what_is_kept(reason, 20)
    assert "trying again" not in done.stdout
    shutil.rmtree(project.folder / "runs")  # what the disk held, on a larger one
    (project.folder / "runs-after").rename(project.folder / "runs")
    done = project.run(*BUILD, "train")
    assert done.returncode == 0, done.stdout
    assert "resuming after step 20" in done.stdout
    assert weights(project) == weights(undisturbed)


def test_a_full_disk_while_tokenizing_leaves_nothing_half_written(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(tokenizer="bytes")  # which is not in DVC's cache, as the texts are
    done = run_on_a_small_disk(project, "data", "48k", *BUILD, "tokenize")
    assert done.returncode == 28, done.stdout
    assert "build: tokenize: no space left on the disk" in done.stdout
    assert "trying again" not in done.stdout
    assert not (project.folder / "data-after/tokens").exists()
    assert (project.folder / "data-after/clean/manifest.json").exists()
    done = project.run(*BUILD, "tokenize")
    assert done.returncode == 0, done.stdout
