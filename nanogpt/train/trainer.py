"""One process's part of a training run: an update, a validation, a copy of the state."""

import math
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import TrainConfig
from nanogpt.data.loader import micro_batches
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers, lr_ratio, set_lr
from nanogpt.optim.update import clip_gradients, loss_scaler, unscale, update_weights
from nanogpt.parallel.gradients import Batch, add_gradients
from nanogpt.parallel.processes import full_weights, wrap
from nanogpt.runtime import Runtime
from nanogpt.train.checkpoint import Progress, TrainingState, checkpoints, copy_state, load_state
from nanogpt.train.events import StepDone, Working
from nanogpt.train.micro_batch import BatchSizes
from nanogpt.train.skipped_data import SkippedData
from nanogpt.train.validation import evaluate_in_batches

AGREEMENT_SECONDS = 2.0  # between checks, within an update, whether any process is to stop


class NotFinite(FloatingPointError):
    """A loss or gradient of update `step`, or the validation loss after it, is not finite."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class StopRequested(Exception):
    """An update is abandoned between two of its micro-batches, by all processes alike."""


class Trainer:
    """A model, its optimizers and, in float16, the scaler of its loss, as a runtime runs them."""

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        sizes: BatchSizes,
        runtime: Runtime,
        pool: Executor | None,
    ) -> None:
        self.model, self.config, self.sizes = model, config, sizes
        self.runtime, self.pool = runtime, pool
        self.wrapped = wrap(model, runtime)  # first: it may replace the parameters by shards
        self.optimizers = build_optimizers(
            model, config.optim, runtime.dtype, pool, runtime.workers
        )
        self.scaler = loss_scaler(runtime)
        self.agreement_interval = 1  # in micro-batches; the first update will tell how long one is

    def resume(self, folder: Path, identity: Mapping[str, Any]) -> Progress:
        """Load the newest checkpoint in `folder`, if there is one; return the progress so far.

        Raises ValueError as `load_state` does, and when processes find different checkpoints.
        """
        progress = Progress(step=0, best_step=None, best_loss=None)
        if written := checkpoints(folder):
            newest = written[-1]
            progress, scaler = load_state(newest, self.model, self.optimizers, identity)
            if scaler:  # empty if the run has not used float16 until now
                self.scaler.load_state_dict(scaler)
        check_same_step(progress.step, self.runtime)
        return progress

    def batches_after(
        self, step: int, stream: TokenStream, order: WindowOrder, skipped: SkippedData
    ) -> Generator[Batch, None, None]:
        """Yield the micro-batches of all updates after `step`, prefetched by a thread.

        The thread ends when this generator is closed.
        """
        accumulation = self.sizes.accumulation
        for steps in skipped.data_of(range(step, self.config.max_steps)):
            yield from micro_batches(
                stream,
                order,
                indices=range(steps.start * accumulation, steps.stop * accumulation),
                micro_batch=self.sizes.micro_batch,
                vocab_size=self.model.config.vocab_size,
                runtime=self.runtime,
            )

    def update(
        self, step: int, batches: Iterator[Batch], stop: Event
    ) -> tuple[StepDone | None, bool]:
        """Do update `step`, counted from 1; return its event, and whether to stop after it.

        Once `stop` is set in any process, the update is abandoned between two micro-batches: the
        weights stay as they were, and the event is None. Raises NotFinite when the loss or gradient
        is not finite, unless it is skipped.
        """
        started, optim, scaler = time.perf_counter(), self.config.optim, self.scaler

        # schedule: the learning rate of this update
        ratio = lr_ratio(step - 1, optim, self.config.max_steps)
        set_lr(self.optimizers, ratio)

        # accumulate: the gradients of all micro-batches of this update
        batches = self.until_stopped(batches, stop)
        try:
            loss_share, loader_seconds = add_gradients(
                self.wrapped, batches, self.sizes.accumulation, scaler, self.runtime, self.pool
            )
        except StopRequested:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            return None, True

        # clip: scale the gradients down to grad_clip if their norm is larger
        unscale(self.optimizers, scaler)
        grad_norm = clip_gradients(self.model, optim.grad_clip)

        # step: the processes agree on the loss and on stopping, then all update or all skip
        mine = time.perf_counter() - started
        loss, stopping, seconds = reduce_over_processes(
            loss_share, stop.is_set(), mine, self.runtime
        )
        self.agreement_interval = max(
            1, int(AGREEMENT_SECONDS * self.sizes.accumulation / max(seconds, 1e-9))
        )
        skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        if skipped and not may_skip(loss, self.config, scaler):
            raise not_finite(step, {"loss": loss, "gradient norm": grad_norm})
        update_weights(self.optimizers, scaler, skipped=skipped)
        done = StepDone(
            step=step,
            loss=loss,
            lr=optim.learning_rate * ratio,
            grad_norm=grad_norm,
            skipped=skipped,
            seconds=time.perf_counter() - started,
            loader_seconds=loader_seconds,
        )
        return done, stopping

    def until_stopped(self, batches: Iterator[Batch], stop: Event) -> Iterator[Batch]:
        """Yield the micro-batches of one update. Raises StopRequested between two of them."""
        yield next(batches)
        for done in range(1, self.sizes.accumulation):
            if self.agree_to_stop(done, stop):
                raise StopRequested
            yield next(batches)

    def agree_to_stop(self, done: int, stop: Event) -> bool:
        """Return whether to stop after `done` micro-batches of an update.

        Several processes agree about every AGREEMENT_SECONDS, as estimated from the last
        update: all of them after the same micro-batches, and never within short updates.
        """
        if not self.runtime.distributed:
            return stop.is_set()
        if done % self.agreement_interval:
            return False
        flag = torch.tensor(float(stop.is_set()), device=self.runtime.device)
        return self.runtime.all_reduce_max(flag).item() > 0

    def validate(self, step: int, stream: TokenStream) -> Generator[Working, None, float]:
        """Return the loss on eval_tokens of `stream`, spread evenly over it, after `step`.

        Yields an event after each batch. Raises NotFinite when the loss is not finite.
        """
        with full_weights(self.model, self.runtime):
            for evaluation in evaluate_in_batches(
                self.model,
                stream,
                runtime=self.runtime,
                batch_tokens=self.sizes.eval_batch_tokens,
                pool=self.pool,
                max_windows=max(1, self.config.eval_tokens // self.model.config.block_size),
            ):
                if evaluation is None:
                    yield Working(step=step)
        assert evaluation is not None  # the last one
        if not math.isfinite(evaluation.loss):
            raise not_finite(step, {"validation loss": evaluation.loss})
        return evaluation.loss

    def snapshot(self, progress: Progress) -> TrainingState | None:
        """Copy the state for a checkpoint in rank 0; the others help to gather it and get None."""
        return copy_state(
            self.model,
            self.optimizers,
            progress,
            scaler=self.scaler.state_dict(),
            keep=self.runtime.rank == 0,
        )


def check_same_step(step: int, runtime: Runtime) -> None:
    """Raise ValueError when processes resume from different steps (a lagging file system)."""
    bounds = runtime.all_reduce_max(torch.tensor([step, -step], device=runtime.device))
    newest, oldest = bounds[0].item(), -bounds[1].item()
    if newest != oldest:
        raise ValueError(
            f"this process found the checkpoint of step {step}, another process that of step "
            f"{oldest if step == newest else newest} (is the shared file system lagging?); rerun"
        )


def reduce_over_processes(
    loss: Tensor, stop: bool, seconds: float, runtime: Runtime
) -> tuple[float, bool, float]:
    """Combine the results of an update, so that all processes continue in the same way.

    Return the sum of their shares of the loss, whether any was asked to stop, and the mean of the
    seconds it took them.
    """
    values = torch.stack((loss, *torch.tensor((float(stop), seconds), device=loss.device)))
    loss_sum, stops, total = runtime.all_reduce_sum(values).tolist()
    return loss_sum, stops > 0, total / runtime.world_size


def may_skip(loss: float, config: TrainConfig, scaler: torch.amp.GradScaler) -> bool:
    """Return whether to continue after an update whose loss or gradient norm is not finite.

    A loss scaler provokes such gradients on purpose, to find the largest scale that works.
    """
    return config.non_finite == "skip" or (scaler.is_enabled() and math.isfinite(loss))


def not_finite(step: int, values: Mapping[str, float]) -> NotFinite:
    """Return an error that names the step and the first value that is not finite."""
    name, value = next((n, v) for n, v in values.items() if not math.isfinite(v))
    way_out = "lower the learning rate or lengthen the warm-up"
    return NotFinite(step, f"step {step}: the {name} is {value}; {way_out}")
