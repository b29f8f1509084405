"""The launcher of a training: what it refuses, and with which messages."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.lib.params import parse_section
from stages.runtime.supervise import exclusive_lock, is_locked
from stages.runtime.yaml_files import PARAMS_FILE, read_params
from stages.train.params import TrainParams
from stages.train.stage import STATE_LOCK, remove_finished

ROOT = Path(__file__).parents[3]


def train_params(**changes: Any) -> TrainParams:
    """Return the section `train` of the default params with some values changed."""
    content = {**read_params(ROOT / PARAMS_FILE)["train"], **changes}
    return parse_section("train", TrainParams, content, PARAMS_FILE)


@pytest.mark.parametrize(
    ("max_steps", "warmup", "decay", "updates"),
    [
        (1000, 0.01, 0.4, (10, 400)),
        (1000, 10, 400, (10, 400)),
        (1000, 0, 0.0, (0, 0)),
        (1000, 0.0, 1000, (0, 1000)),
        (1000, 1, 0.999, (1, 999)),
        (250, 0.01, 0.4, (2, 100)),  # 2.5 updates become the even number
        (15, 0.01, 0.9, (1, 14)),  # the warm-up has one update at least
        (50, 0.01, 0.99, (1, 49)),  # and the decay what is left
        (10, 0.7, 0.3, (7, 3)),
        (3, 0.5, 0.5, (2, 1)),
        (1, 0.01, 0.99, (1, 0)),
    ],
)
def test_a_schedule_is_given_in_shares_of_the_run_or_in_updates(
    max_steps: int, warmup: float, decay: float, updates: tuple[int, int]
) -> None:
    params = train_params(max_steps=max_steps, warmup=warmup, decay=decay)
    assert params.schedule_updates() == updates


def test_a_schedule_of_shares_fits_into_a_run_of_any_length() -> None:
    for max_steps in (*range(1, 12), 33, 99, 100, 101, 299):
        for warmup, decay in [(0.01, 0.4), (0.1, 0.9), (0.35, 0.65), (0.013, 0.284)]:
            params = train_params(max_steps=max_steps, warmup=warmup, decay=decay)
            rise, fall = params.schedule_updates()
            assert 1 <= rise <= max_steps - fall


def test_a_share_stays_a_share_on_its_way_to_the_training_processes() -> None:
    params = train_params(warmup=0, decay=0.0)
    assert TrainParams(**json.loads(json.dumps(params.model_dump()))) == params
    assert [type(value) for value in (params.warmup, params.decay)] == [int, float]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NANOGPT_DEVICE": "cuda"}, "device 'cuda' is not on this machine; here: cpu, or auto"),
        ({"NANOGPT_DEVCE": "cpu"}, "NANOGPT_DEVCE: no such setting"),
        (
            {"NANOGPT_PROCESSES": "1000000"},
            "NANOGPT_PROCESSES=1000000, but a training step has only 32 windows to distribute",
        ),
        (
            {"NANOGPT_TORCHRUN": "--nods=2"},
            "train: NANOGPT_TORCHRUN: error: unrecognized arguments: --nods=2",
        ),
        ({"NANOGPT_JOIN": "true"}, "train: NANOGPT_JOIN=true needs NANOGPT_TORCHRUN, the options"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_message(
    new_project: Callable[..., Any], environment: dict[str, str], message: str
) -> None:
    done = new_project().run("python", "-m", "stages", "train", **environment)
    assert done.returncode == 2
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_text_shorter_than_one_block_is_refused(new_project: Callable[..., Any]) -> None:
    project = new_project(block_size="100000", batch_tokens="100000")
    done = project.run("python", "-m", "stages", "train")
    assert done.returncode == 2
    assert "tokens are too few for one window of 100001" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "models/gpt").exists()


def test_a_loss_that_is_not_finite_stops_the_training_with_its_step(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(learning_rate="10.0", muon_learning_rate="10.0", optimizer="adamw")
    project.set_params(
        logit_softcap="0.0",
        qk_norm="false",
        norm="layernorm",
        weight_decay="10.0",
        warmup="0",
    )
    status = project.folder / "status.json"
    other_job = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}  # as a cluster may set them
    settings = {**other_job, "NANOGPT_STATUS_FILE": str(status)}
    done = project.run("python", "-m", "stages", "train", **settings)
    assert done.returncode == 33
    reported = json.loads(status.read_text())
    assert reported["kind"] == "diverged"
    said = (
        r"step (\d+): the (validation )?(loss|gradient norm) is (nan|inf); lower the learning rate"
    )
    step = re.match(said, reported["message"])
    assert step, reported
    (end,) = project.folder.glob("runs/*/ended.json")
    assert json.loads(end.read_text())["step"] == int(step[1])

    # Without the data it diverges too, and that is its end.
    settings["NANOGPT_SKIP_DIVERGED"] = "true"
    skipping = "train: diverged at step"
    for starts in (True, False):
        done = project.run("python", "-m", "stages", "train", **settings)
        assert done.returncode == 33
        assert (skipping in done.stdout) == starts
        reported = json.loads(status.read_text())
        assert re.search(r"were already skipped\)$", reported["message"]), reported


def test_an_output_that_cannot_be_written_is_reported(new_project: Callable[..., Any]) -> None:
    project = new_project(max_steps="4", decay="0")
    (project.folder / "models").write_text("a file where a folder should be")
    done = project.run("python", "-m", "stages", "train")
    assert done.returncode == 2
    assert "models" in done.stdout
    assert "Traceback" not in done.stdout


LAUNCHER = """
from stages.runtime.entry import run_command
from stages.train import stage

stage.WORKER = "worker"
run_command("train", stage.run_stage)
"""
HUNGRY = """
from pathlib import Path
import torch
from nanogpt.model.gpt import GPT
from stages.train.worker import main

forward = GPT.forward

def limited(self, idx, *arguments, **options):
    if idx.numel() > 1024 and list(Path("runs").glob("*/step-*")):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return forward(self, idx, *arguments, **options)

GPT.forward = limited
main()
"""


def test_a_device_without_memory_is_reported_and_half_the_micro_batch_continues(
    new_project: Callable[..., Any],
) -> None:
    project = new_project(max_steps="12", decay="4", eval_interval="2", batch_tokens="2048")
    (project.folder / "worker.py").write_text(HUNGRY)
    status = project.folder / "status.json"
    settings = {"NANOGPT_STATUS_FILE": str(status), "NANOGPT_PROCESSES": "1"}
    done = project.run("python", "-c", LAUNCHER, **settings)
    assert done.returncode == 12, done.stdout
    message = (
        "cpu ran out of memory with micro-batches of 2048 tokens per forward pass: set "
        "NANOGPT_MICRO_BATCH_TOKENS=1024"
    )
    assert f"train: {message}" in done.stdout.splitlines()
    assert json.loads(status.read_text()) == {
        "stage": "train",
        "kind": "memory",
        "message": message,
        "micro_batch_tokens": 2048,
        "window_tokens": 16,
    }
    settings["NANOGPT_MICRO_BATCH_TOKENS"] = "1024"
    done = project.run("python", "-c", LAUNCHER, **settings)
    assert done.returncode == 0, done.stdout
    assert "resuming after step" in done.stdout
    lineage = json.loads((project.folder / "models/gpt/lineage.json").read_text())
    sizes = [session["micro_batch_tokens"] for session in lineage["sessions"]]
    assert sizes == [2048, 1024]
    assert lineage["params"]["train"]["batch_tokens"] == 2048


def test_the_state_of_a_run_by_other_code_is_removed_under_its_lock(tmp_path: Path) -> None:
    """The lock stays, or else another process could lock a new file of its name."""
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        (folder / "step-00000010").mkdir(parents=True)
        (folder / "ended.json").write_text(json.dumps({"finished": True, "code": "of another"}))
    with exclusive_lock(own / STATE_LOCK):
        remove_finished(except_for=own)
        assert is_locked(own / STATE_LOCK)
    assert [path.name for path in own.iterdir()] == [STATE_LOCK]
    assert not (other / "step-00000010").exists()
