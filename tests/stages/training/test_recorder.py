"""What is kept of a training's events, and where."""

import json
from pathlib import Path

import pytest
import torch

from nanogpt.train import Started, StepDone
from stages.tracking import Tracker
from stages.training.recorder import Hardware, Recorder


def test_times_go_to_mlflow_and_not_into_the_curves(workspace: Path) -> None:
    """Curves are the same bytes on every run."""
    recorder = Recorder(
        workspace,
        Tracker("model", enabled=True),
        max_steps=2,
        batch_tokens=128,
        interval=2,
        hardware=Hardware(device=torch.device("cpu"), flops_per_token=10, peak_flops=4e4),
    )
    recorder.take(Started(step=0, micro_batch=4, accumulation=2))
    for step, seconds, loader_seconds in ((1, 1.5, 0.25), (2, 0.5, 0.05)):
        recorder.take(
            StepDone(
                step=step,
                loss=3.0 / step,
                lr=0.5,
                grad_norm=1.0,
                skipped=step == 2,
                seconds=seconds,
                loader_seconds=loader_seconds,
            )
        )
    curve = (workspace / "train.csv").read_text()
    assert curve == "step,loss,lr,grad_norm\n1,3,0.5,1\n2,1.5,0.5,1\n"
    (outbox,) = workspace.glob("runs/tracking/model/*.jsonl")
    (entry,) = (json.loads(line) for line in outbox.read_text().splitlines())
    assert entry["step"] == 2
    assert entry["values"]["train/loss"] == 1.5
    assert entry["values"]["loader_share"] == pytest.approx(0.15)
    assert entry["values"]["skipped_steps"] == 1
    assert entry["values"]["mfu"] == pytest.approx(128 / 1.0 * 10 / 4e4)  # by the median step
    assert entry["values"]["peak_memory_gib"] > 0.01
