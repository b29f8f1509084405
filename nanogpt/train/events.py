"""Events that the training loop yields."""

from dataclasses import dataclass
from pathlib import Path

from nanogpt.train.checkpoint import Progress


@dataclass(frozen=True, kw_only=True)
class Started:
    """Training starts, or resumes, after `step` updates."""

    step: int
    micro_batch: int  # sequences per process and forward pass
    accumulation: int  # micro-batches per process and update
    too_large: int | None = None  # a micro-batch that did not fit into memory


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One update is done; its loss in nats is the mean over the global batch, before the update."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    skipped: bool  # loss or gradient was not finite, so the weights are unchanged
    seconds: float
    loader_seconds: float  # part of `seconds`: waiting for data


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The loss was measured on eval_tokens of the validation split, spread evenly over it."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten:
    """The checkpoint of `step` is complete at `path`; training continued while it was written."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Training has ended, the last event; `finished` is False when it was stopped early."""

    progress: Progress
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Working:
    """A sign of life after `step`: during a validation, or while waiting for a checkpoint."""

    step: int


TrainEvent = Started | StepDone | Evaluated | CheckpointWritten | Working | Ended
