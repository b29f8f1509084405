"""The watch over a stage: time limits, hangs and cancelled runs."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.watch import CANCELLED_SECONDS, Hang, OutOfTime, RunCancelled, Watch
from stages.runtime.progress_file import Progress, ProgressFile

STEP = Progress(3, 10, 1.5, 1000.0, 2.0, 14.0)


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watch]:
    """Makes a watch with some values changed."""

    def make(**changed: object) -> Watch:
        values = {
            "file": tmp_path / "progress.json",
            "limit": 3600.0,
            "silence": 10.0,
            "report": lambda progress: None,
            "cancelled": lambda: False,
        }
        return Watch(**{**values, **changed})  # type: ignore[arg-type]  # of many types

    return make


def test_a_stage_beyond_its_time_limit_is_ended(watch: Callable[..., Watch]) -> None:
    with pytest.raises(OutOfTime, match=r"time limit of 2 hours \(NANOGPT_TIME_LIMITS\)"):
        watch(limit=7200.0, started=time.monotonic() - 7201)()
    watch(limit=7200.0)()


def test_silence_is_a_hang_after_many_usual_steps(watch: Callable[..., Watch]) -> None:
    one = watch()
    one()  # no progress yet: a long start is no hang
    ProgressFile(one.file).write(STEP)
    one()
    one.moved -= 39
    one()  # 20 steps of 2 s may be silent for 40 s
    one.moved -= 2
    with pytest.raises(Hang, match="completed no step for 41 s after step 3"):
        one()


def test_what_follows_the_last_step_is_no_hang(watch: Callable[..., Watch]) -> None:
    one = watch()
    ProgressFile(one.file).write(Progress(10, 10, 1.5, 1000.0, 0.1, 0.0))
    one()
    one.moved -= 500
    one()


def test_a_clock_that_is_set_forward_is_no_hang(watch: Callable[..., Watch]) -> None:
    one = watch()
    ProgressFile(one.file).write(STEP)
    os.utime(one.file, (time.time() - 5000,) * 2)  # as after a suspended night
    one()


def test_progress_is_reported_when_it_changes(watch: Callable[..., Watch]) -> None:
    reported: list[int] = []
    one = watch(report=lambda progress: reported.append(progress.step))
    ProgressFile(one.file).write(STEP)
    one()
    one()
    ProgressFile(one.file).write(Progress(4, 10, 1.4, 1000.0, 2.0, 12.0))
    one()
    assert reported == [3, 4]


def test_a_cancelled_run_is_ended(watch: Callable[..., Watch]) -> None:
    long_ago = time.monotonic() - CANCELLED_SECONDS - 1
    with pytest.raises(RunCancelled, match="was cancelled"):
        watch(cancelled=lambda: True, asked=long_ago)()
    watch(cancelled=lambda: True)()  # asked a moment ago
