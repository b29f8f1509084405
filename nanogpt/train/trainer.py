"""One process's part of a training run: an update, a validation, a copy of the state."""

import math
import time
from collections.abc import Iterator, Mapping
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
from nanogpt.train.events import StepDone
from nanogpt.train.micro_batch import BatchSizes
from nanogpt.train.validation import evaluate_split


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

    def batches_after(self, step: int, stream: TokenStream, order: WindowOrder) -> Iterator[Batch]:
        """Return the micro-batches of all updates after `step`, prefetched."""
        accumulation = self.sizes.accumulation
        return micro_batches(
            stream,
            order,
            indices=range(step * accumulation, self.config.max_steps * accumulation),
            micro_batch=self.sizes.micro_batch,
            vocab_size=self.model.config.vocab_size,
            runtime=self.runtime,
        )

    def update(self, step: int, batches: Iterator[Batch], stop: Event) -> tuple[StepDone, bool]:
        """Do update `step`, counted from 1; return its event, and whether to stop after it.

        Raises FloatingPointError when the loss or gradient is not finite, unless it is skipped.
        """
        started, optim, scaler = time.perf_counter(), self.config.optim, self.scaler

        # schedule: the learning rate of this update
        ratio = lr_ratio(step - 1, optim, self.config.max_steps)
        set_lr(self.optimizers, ratio)

        # accumulate: the gradients of all micro-batches of this update
        loss_share, loader_seconds = add_gradients(
            self.wrapped, batches, self.sizes.accumulation, scaler, self.runtime, self.pool
        )

        # clip: scale the gradients down to grad_clip if their norm is larger
        unscale(self.optimizers, scaler)
        grad_norm = clip_gradients(self.model, optim.grad_clip)

        # step: the processes agree on the loss and on stopping, then all update or all skip
        loss, stopping = reduce_loss_and_stop(loss_share, stop.is_set(), self.runtime)
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

    def validate(self, step: int, stream: TokenStream) -> float:
        """Return the loss on eval_tokens of `stream`, spread evenly over it, after `step`.

        Raises FloatingPointError when it is not finite.
        """
        with full_weights(self.model, self.runtime):
            loss = evaluate_split(
                self.model,
                stream,
                runtime=self.runtime,
                batch_tokens=self.sizes.eval_batch_tokens,
                pool=self.pool,
                max_windows=max(1, self.config.eval_tokens // self.model.config.block_size),
            ).loss
        if not math.isfinite(loss):
            raise not_finite(step, {"validation loss": loss})
        return loss

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
            f"this process found a checkpoint of step {step}, others one of step "
            f"{oldest if step == newest else newest}; try again"
        )


def reduce_loss_and_stop(loss: Tensor, stop: bool, runtime: Runtime) -> tuple[float, bool]:
    """Return the sum of all processes' shares of the loss, and whether any was asked to stop."""
    both = torch.stack((loss, torch.tensor(float(stop), device=loss.device)))
    loss_sum, stops = runtime.all_reduce_sum(both).tolist()
    return loss_sum, stops > 0


def may_skip(loss: float, config: TrainConfig, scaler: torch.amp.GradScaler) -> bool:
    """Return whether to continue after an update whose loss or gradient norm is not finite.

    A loss scaler provokes such gradients on purpose, to find the largest scale that works.
    """
    return config.non_finite == "skip" or (scaler.is_enabled() and math.isfinite(loss))


def not_finite(step: int, values: Mapping[str, float]) -> FloatingPointError:
    """Return an error that names the step and the first value that is not finite."""
    name, value = next((n, v) for n, v in values.items() if not math.isfinite(v))
    return FloatingPointError(
        f"step {step}: the {name} is {value}; lower the learning rate or lengthen the warm-up"
    )
