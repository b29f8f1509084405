"""The records and the output of a training's events."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.train.events import (
    CheckpointWritten,
    Evaluated,
    Started,
    StepDone,
    TrainEvent,
    Working,
)
from nanogpt.train.skipped_data import NOTHING_SKIPPED, SkippedData
from stages.runtime.progress_file import ProgressFile, read_progress
from stages.tracking.recorder import Clock, Hardware, Plan, Recorder, start_lines
from stages.tracking.tracker import Tracker

PLAN = Plan(
    n_params=1_311_872,
    max_steps=2,
    batch_tokens=128,
    processes=1,
    val_tokens=100,
    val_bytes=300,
)


def recorder_in(
    folder: Path,
    *,
    enabled: bool = True,
    progress: Path | None = None,
    skipped: SkippedData = NOTHING_SKIPPED,
) -> Recorder:
    """Return a recorder of a training of two steps, without samples."""
    return Recorder(
        folder,
        Tracker("model", enabled=enabled),
        PLAN,
        interval=2,
        hardware=Hardware(device=torch.device("cpu"), flops_per_token=10, peak_flops=4e4),
        samples=None,
        losses=list,
        progress=ProgressFile(progress),
        skipped=skipped,
    )


def step_done(step: int, **values: Any) -> StepDone:
    """Return the event of a step."""
    defaults = {"loss": 3.0 / step, "lr": 0.5, "grad_norm": 1.0, "skipped": step == 2}
    return StepDone(step=step, **{**defaults, "seconds": 1.0, "loader_seconds": 0.0, **values})


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Return the entries in the outbox."""
    (outbox,) = folder.glob("runs/tracking/model/*.jsonl")
    return [json.loads(line) for line in outbox.read_text().splitlines()]


def test_a_step_is_recorded_with_its_times(workspace: Path) -> None:
    recorder = recorder_in(workspace)
    recorder.handle(Started(step=0, micro_batch=4, accumulation=2))
    recorder.handle(step_done(1, seconds=1.5, loader_seconds=0.25))
    recorder.handle(step_done(2, seconds=0.5, loader_seconds=0.05))
    (entry,) = recorded(workspace)
    assert entry["step"] == 2
    assert entry["values"]["train/loss"] == 1.5
    assert entry["values"]["speed/loader_share"] == pytest.approx(0.15)
    assert entry["values"]["train/skipped_steps"] == 1
    assert entry["values"]["train/tokens"] == 2 * 128
    assert entry["values"]["speed/mfu"] == pytest.approx(128 / 1.0 * 10 / 4e4)  # by the median step
    assert entry["values"]["system/peak_memory_gib"] > 0.01


def test_the_learning_rate_of_each_optimizer_is_recorded(workspace: Path) -> None:
    recorder = recorder_in(workspace)
    recorder.plan = replace(PLAN, muon_lr_ratio=4.0)
    recorder.handle(step_done(2, lr=0.25))
    (entry,) = recorded(workspace)
    assert (entry["values"]["train/lr"], entry["values"]["train/muon_lr"]) == (0.25, 1.0)


@pytest.mark.parametrize(
    ("skipped", "losses"),
    [(NOTHING_SKIPPED, [9.0]), (SkippedData(after_step=1, windows_of_steps=1), [9.0, 1.5])],
)
def test_updates_on_other_data_than_before_are_recorded_again(
    workspace: Path, skipped: SkippedData, losses: list[float]
) -> None:
    """A session that only repeats updates records nothing twice."""
    first = recorder_in(workspace)
    first.handle(Started(step=0, micro_batch=4, accumulation=1))
    first.handle(step_done(2, loss=9.0))  # and then it diverged
    again = recorder_in(workspace, skipped=skipped)
    again.handle(Started(step=1, micro_batch=4, accumulation=1))
    again.handle(step_done(2, loss=1.5))
    assert [entry["values"]["train/loss"] for entry in recorded(workspace)] == losses


def test_skipped_steps_are_counted_over_all_sessions(workspace: Path) -> None:
    first = recorder_in(workspace)
    first.handle(Started(step=0, micro_batch=4, accumulation=1))
    first.handle(step_done(2))
    again = recorder_in(workspace)
    again.handle(Started(step=2, micro_batch=4, accumulation=1))
    assert again.skipped == 1
    restarted = recorder_in(workspace)
    restarted.handle(Started(step=1, micro_batch=4, accumulation=1))  # from before that step
    assert restarted.skipped == 0


@pytest.mark.parametrize("at_work", [Working(step=1), CheckpointWritten(step=1, path=Path("x"))])
def test_the_progress_file_is_renewed_between_updates(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, at_work: TrainEvent
) -> None:
    """But not more often than every second, and only a training at work is."""
    now, file = 0.0, workspace / "progress.json"
    monkeypatch.setattr("time.monotonic", lambda: now)
    recorder = recorder_in(workspace, progress=file)
    recorder.handle(Started(step=0, micro_batch=4, accumulation=2))
    recorder.handle(at_work)
    assert read_progress(file) is None  # before the first update there is nothing to say
    recorder.handle(step_done(1))
    for later, renewed in ((0.5, False), (1.5, True), (2.0, False), (2.5, True)):
        now = later
        os.utime(file, (0, 0))
        recorder.handle(at_work)
        assert (file.stat().st_mtime > 0) == renewed
        progress = read_progress(file)
        assert progress is not None
        assert (progress.step, progress.loss, progress.seconds_left) == (1, 3.0, 1.0)


def test_an_evaluation_is_printed_and_recorded_with_bits_per_byte(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = recorder_in(workspace)
    recorder.handle(Started(step=0, micro_batch=4, accumulation=1))
    recorder.handle(Evaluated(step=1, loss=3 * math.log(2), is_best=True))
    recorder.handle(Evaluated(step=2, loss=6 * math.log(2), is_best=False))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "step      1  validation loss 2.0794, 1.0000 bits per byte, the best so far",
        "step      2  validation loss 4.1589, 2.0000 bits per byte",
    ]
    values = [entry["values"] for entry in recorded(workspace)]
    assert [value["val/bits_per_byte"] for value in values] == pytest.approx([1.0, 2.0])
    assert [value["val/loss"] for value in values] == pytest.approx([2.0794415, 4.1588831])


def test_a_resumed_training_does_not_record_steps_twice(workspace: Path) -> None:
    for _ in range(2):
        recorder = recorder_in(workspace)
        recorder.handle(Started(step=0, micro_batch=4, accumulation=1))
        recorder.handle(Evaluated(step=1, loss=3.0, is_best=True))
    assert [entry["step"] for entry in recorded(workspace)] == [1]


def test_a_start_prints_only_what_is_relevant() -> None:
    plain = Started(step=0, micro_batch=16, accumulation=1)
    assert start_lines(PLAN, plain) == ["train: 1,311,872 parameters, 2 steps of 128 tokens"]
    resumed = Started(step=1, micro_batch=8, accumulation=2, too_large=16)
    four = Plan(**{**vars(PLAN), "processes": 4})
    assert start_lines(four, resumed)[1:] == [
        "resuming after step 1",
        "gradient accumulation: 2 micro-batches of 8 sequences per step on each of 4 processes",
        "a micro-batch of 16 sequences does not fit in memory",
    ]
    done = Started(step=2, micro_batch=16, accumulation=1)
    assert start_lines(PLAN, done)[1:] == ["already trained; rewriting its model"]


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        (None, "live curves: make watch"),
        ("http://127.0.0.1:9", "live curves: http://127.0.0.1:9 (make watch: this run)"),
    ],
)
def test_a_start_prints_where_the_curves_are(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    uri: str | None,
    line: str,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = Started(step=0, micro_batch=4, accumulation=1)
    recorder_in(workspace).handle(started)
    assert line in capsys.readouterr().out.splitlines()
    recorder_in(workspace, enabled=False).handle(started)
    assert "live curves" not in capsys.readouterr().out


def test_the_time_left_includes_the_time_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 10.0, 12.0, 17.0])  # made; three updates of two seconds have ended
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Clock()
    for _ in range(3):
        clock.tick(2.0)
    assert clock.between_steps == pytest.approx(1.5)  # nothing, then three seconds
