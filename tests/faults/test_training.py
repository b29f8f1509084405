"""Trainings that are stopped in a long update, or that diverge on some of their data."""

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import ask_to_stop, wait_for_step

QUIET = {"NANOGPT_LOG_INTERVAL": "1"}
STOP_SECONDS = 15  # from SIGTERM until no process is left

LAUNCHER = """
from stages.runtime.entry import run_command
from stages.train import stage

stage.WORKER = "worker"
run_command("train", stage.run_stage)
"""

# Diverges on the first window of step 26, whenever it is read.
POISONED = """
import math
from nanogpt.model.gpt import GPT
from nanogpt.rng import mix
from stages.train.worker import main

SEED, WINDOWS = 1, 128
poison = mix(SEED, 25 * WINDOWS, 3)
poison -= 2**64 * (poison >= 2**63)  # as int64
forward = GPT.forward

def poisoned(self, idx, *arguments, dropout_keys=None, **options):
    loss = forward(self, idx, *arguments, dropout_keys=dropout_keys, **options)
    if dropout_keys is not None and (dropout_keys == poison).any():
        loss = loss * math.nan
    return loss

GPT.forward = poisoned
main()
"""

# Waits for ever in its 30th pass, with Python's lock held, so that no thread of it can do anything.
STUCK = """
import ctypes
from nanogpt.model.gpt import GPT
from stages.train.worker import main

forward, passes = GPT.forward, 0

def stuck(self, *arguments, **options):
    global passes
    passes += 1
    if passes == 30:
        print("step     30 of 30", flush=True)
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    return forward(self, *arguments, **options)

GPT.forward = stuck
main()
"""


def weights(project: Any) -> bytes:
    """Return the content of the finished model's file."""
    content: bytes = (project.folder / "models/gpt/model.safetensors").read_bytes()
    return content


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stop_does_not_wait_for_a_long_update(
    new_project: Callable[..., Any], processes: str
) -> None:
    """A step takes six to twenty seconds here, a micro-batch less than one."""
    params = {"batch_tokens": str(1 << 21), "max_steps": "2", "warmup": "0", "decay": "1"}
    settings = {
        **QUIET,
        "NANOGPT_PROCESSES": processes,
        "NANOGPT_MICRO_BATCH_TOKENS": str(1 << 14),
    }
    project, whole = new_project(**params), new_project("whole", **params)
    process = project.start("python", "-m", "stages", "train", **settings)
    wait_for_step(process, 1)
    time.sleep(1)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    while project.processes():
        time.sleep(0.1)
    seconds = time.monotonic() - started
    print(f"stopped after {seconds:.1f} s")
    assert process.returncode == 130, output
    assert "stopped after step 1; rerun to resume from there" in output
    assert seconds < STOP_SECONDS
    for one in (project, whole):
        done = one.run("python", "-m", "stages", "train", **settings)
        assert done.returncode == 0, done.stdout
    assert weights(project) == weights(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody ends such a process")
def test_a_process_stuck_in_native_code_does_not_outlive_its_launcher(
    new_project: Callable[..., Any],
) -> None:
    """One that is asked to stop is killed after a minute, with all the others."""
    project = new_project()
    (project.folder / "worker.py").write_text(STUCK)
    process = project.start("python", "-c", LAUNCHER, **QUIET)
    wait_for_step(process, 30)
    process.kill()
    deadline = time.monotonic() + 5
    while left := project.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_run_that_diverged_skips_its_data_and_an_interruption_changes_nothing(
    new_project: Callable[..., Any],
) -> None:
    def launch(project: Any, **settings: str) -> Any:
        return project.run("python", "-c", LAUNCHER, **QUIET, **settings)

    skip = {"NANOGPT_SKIP_DIVERGED": "true"}
    project = new_project(max_steps="200", batch_tokens="2048")
    (project.folder / "worker.py").write_text(POISONED)
    done = launch(project)
    assert done.returncode == 33, done.stdout
    assert "step 26: the loss is nan" in done.stdout
    (ended,) = project.folder.glob("runs/*/ended.json")
    assert json.loads(ended.read_text())["step"] == 26
    assert launch(project).returncode == 33  # without the setting it diverges again

    process = project.start("python", "-c", LAUNCHER, **QUIET, **skip)
    wait_for_step(process, 45)
    ask_to_stop(process)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    done = launch(project)
    assert done.returncode == 0, done.stdout
    lineage = json.loads((project.folder / "models/gpt/lineage.json").read_text())
    assert lineage["skipped"] == [{"after_step": 20, "windows_of_steps": 6}]

    whole = new_project("whole", max_steps="200", batch_tokens="2048")
    (whole.folder / "worker.py").write_text(POISONED)
    assert launch(whole).returncode == 33
    done = launch(whole, **skip)
    assert done.returncode == 0, done.stdout
    assert "resuming after step 20, without the next 6 steps of data" in done.stdout
    assert weights(project) == weights(whole)
