"""The launcher of a training: what it refuses, and how it says so."""

import getpass
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUIET = {"NANOGPT_TRACKING": "false"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NANOGPT_DEVICE": "cuda"}, "device 'cuda' is not on this machine; here: cpu, or auto"),
        ({"NANOGPT_DEVCE": "cpu"}, "NANOGPT_DEVCE: no such setting"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_message(
    new_project: Callable[..., Any], environment: dict[str, str], message: str
) -> None:
    done = new_project().run("python", "-m", "stages.train", **QUIET, **environment)
    assert done.returncode == 2
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_text_shorter_than_one_block_is_refused(new_project: Callable[..., Any]) -> None:
    project = new_project(block_size="100000", batch_tokens="100000")
    done = project.run("python", "-m", "stages.train", **QUIET)
    assert done.returncode == 2
    assert "tokens are too few for one window of 100001" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "models/gpt").exists()


def test_a_loss_that_is_no_number_stops_with_its_step(new_project: Callable[..., Any]) -> None:
    project = new_project(learning_rate="10.0", muon_learning_rate="10.0", optimizer="adamw")
    project.set_params(
        logit_softcap="0.0",
        qk_norm="false",
        norm="layernorm",
        weight_decay="10.0",
        warmup_steps="0",
    )
    done = project.run("python", "-m", "stages.train", **QUIET)
    assert done.returncode == 2
    assert re.search(r"step \d+: the (validation )?(loss|gradient norm) is (nan|inf)", done.stdout)
    assert "lower the learning rate" in done.stdout


def test_an_output_that_cannot_be_written_is_told(new_project: Callable[..., Any]) -> None:
    project = new_project(max_steps="4", decay_steps="0")
    (project.folder / "models").write_text("a file where a folder should be")
    done = project.run("python", "-m", "stages.train", **QUIET)
    assert done.returncode == 2
    assert "models" in done.stdout
    assert "Traceback" not in done.stdout


def test_torchrun_leaves_nothing_in_the_folder_for_temporary_files(
    new_project: Callable[..., Any], tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    project = new_project(max_steps="4", decay_steps="0")
    done = project.run("python", "-m", "stages.train", TMPDIR=str(temporary), **QUIET)
    assert done.returncode == 0, done.stdout
    assert {path.name for path in temporary.iterdir()} <= {f"torchinductor_{getpass.getuser()}"}
