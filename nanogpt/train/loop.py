"""The training loop, a generator of events.

It yields what happened and leaves to its caller what to make of it: there are no callbacks, no
tracker and no printing in here. Nothing random is carried from step to step: the order of the data
is a function of (seed, step) and dropout one of (seed, window), so a run that is interrupted and
resumed computes what an uninterrupted one does: bit for bit, where the device's own sums are the
same every time (CUDA's are not in bfloat16 or compiled: docs/decisions/0005).
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.config import TrainConfig
from nanogpt.data.loader import micro_batches
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers, lr_ratio, set_lr
from nanogpt.parallel.gradients import add_gradients
from nanogpt.parallel.processes import check_optimizer, whole_weights, wrap
from nanogpt.parallel.threads import worker_pool
from nanogpt.runtime import Runtime, full_tensor
from nanogpt.train.checkpoint import CheckpointWriter, Progress, checkpoints, copy_state, load_state
from nanogpt.train.micro_batch import find_micro_batch_size, tries_what_fits
from nanogpt.train.validation import evaluate_split


@dataclass(frozen=True, kw_only=True)
class Started:
    """Training begins or resumes after `step` finished updates."""

    step: int
    micro_batch: int  # sequences per process and forward pass
    accumulation: int  # forward passes per update
    too_large: int | None = None  # the micro-batch there was no memory for


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One update: its loss is the mean over the global batch before the update, in nats."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    skipped: bool  # not finite, and so without effect on the weights
    seconds: float
    loader_seconds: float  # of those, spent waiting for data


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The loss on eval_tokens of the validation split, spread evenly over it."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten:
    """The checkpoint of `step` is complete at `path`; updates continued while it was written."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """No more events; `finished` is False when the training was asked to stop before its end."""

    progress: Progress
    finished: bool


TrainEvent = Started | StepDone | Evaluated | CheckpointWritten | Ended


def micro_batch_sizes(
    batch_tokens: int, block_size: int, world_size: int, limit_tokens: int
) -> list[int]:
    """Sequences per micro-batch that divide the global batch exactly, the largest first.

    Raises ValueError when batch_tokens does not divide among the processes.
    """
    sequences, rest = divmod(batch_tokens, block_size * world_size)
    if rest or not sequences:
        raise ValueError(
            f"batch_tokens {batch_tokens} is not a multiple of block_size x processes "
            f"({block_size} x {world_size}); set train.batch_tokens to one, or NANOGPT_PROCESSES"
        )
    largest = min(sequences, max(1, limit_tokens // block_size))
    return [n for n in range(largest, 0, -1) if sequences % n == 0]


def train(
    model: GPT,
    train_stream: TokenStream,
    val_stream: TokenStream,
    config: TrainConfig,
    *,
    eot_token: int,
    runtime: Runtime,
    folder: Path,
    identity: Mapping[str, Any],
    micro_batch_tokens: int,
    stop: Event,
) -> Iterator[TrainEvent]:
    """Train `model` in place, from the newest checkpoint in `folder` if there is one.

    Raises FloatingPointError at a loss that is not finite, unless such updates are skipped, OSError
    when a checkpoint cannot be written, ValueError at a batch that does not divide or fit, or a
    checkpoint that does not belong here.
    """
    block_size = model.config.block_size
    sizes = micro_batch_sizes(
        config.batch_tokens, block_size, runtime.world_size * runtime.workers, micro_batch_tokens
    )
    order = WindowOrder(n_tokens=len(train_stream), block_size=block_size, seed=config.seed)
    check_optimizer(config.optim, runtime)
    micro, evaluation_tokens = sizes[0], micro_batch_tokens
    if tries_what_fits(runtime):
        micro = find_micro_batch_size(model.train(), sizes, runtime)
        evaluation_tokens = micro * block_size  # more was not tried
    accumulation = config.batch_tokens // (micro * block_size * runtime.world_size)
    with ExitStack() as stack:
        pool = stack.enter_context(worker_pool(runtime.workers))
        wrapped = wrap(model.train(), runtime)
        optimizers = build_optimizers(model, config.optim, runtime.dtype, pool, runtime.workers)
        scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        progress = Progress(step=0, best_step=None, best_loss=None)
        if found := checkpoints(folder):
            progress, scaler_state = load_state(found[-1], model, optimizers, identity)
            if scaler_state:  # none when it was trained in another number format until now
                scaler.load_state_dict(scaler_state)
        check_same_step(progress.step, runtime)
        batches = micro_batches(
            train_stream,
            order,
            numbers=range(progress.step * accumulation, config.max_steps * accumulation),
            micro=micro,
            vocab_size=model.config.vocab_size,
            runtime=runtime,
        )
        yield Started(
            step=progress.step,
            micro_batch=micro,
            accumulation=accumulation,
            too_large=sizes[0] if micro < sizes[0] else None,
        )

        stopping = False
        writer = stack.enter_context(CheckpointWriter(folder, identity))
        while progress.step < config.max_steps and not stopping:
            started, step = time.perf_counter(), progress.step + 1
            ratio = lr_ratio(progress.step, config.optim, config.max_steps)
            set_lr(optimizers, ratio)
            share, loader_seconds = add_gradients(
                wrapped, batches, accumulation, scaler, runtime, pool
            )
            unscale(optimizers, scaler)
            grad_norm = clip_gradients(model, config.optim.grad_clip)
            loss, stopping = reduce_loss_and_stop(share, stop.is_set(), runtime)
            skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
            if skipped and not may_skip(loss, config, scaler):
                raise not_finite(step, {"loss": loss, "gradient norm": grad_norm})
            update(optimizers, scaler, skipped=skipped)
            progress = replace(progress, step=step)
            yield StepDone(
                step=step,
                loss=loss,
                lr=config.optim.learning_rate * ratio,
                grad_norm=grad_norm,
                skipped=skipped,
                seconds=time.perf_counter() - started,
                loader_seconds=loader_seconds,
            )
            due = step % config.eval_interval == 0 or step == config.max_steps
            if due:
                with whole_weights(model, runtime):
                    evaluation = evaluate_split(
                        model,
                        val_stream,
                        eot_token=eot_token,
                        runtime=runtime,
                        batch_tokens=evaluation_tokens,
                        pool=pool,
                        max_windows=max(1, config.eval_tokens // block_size),
                    )
                if not math.isfinite(evaluation.loss):
                    raise not_finite(step, {"validation loss": evaluation.loss})
                is_best = progress.best_loss is None or evaluation.loss < progress.best_loss
                if is_best:
                    progress = replace(progress, best_step=step, best_loss=evaluation.loss)
                yield Evaluated(step=step, loss=evaluation.loss, is_best=is_best)
            for written, path in writer.finished(wait=due or stopping):
                yield CheckpointWritten(step=written, path=path)
            if due or stopping:
                keep, remembered = runtime.rank == 0, scaler.state_dict()
                writer.start(copy_state(model, optimizers, progress, scaler=remembered, keep=keep))
        for written, path in writer.finished(wait=True):
            yield CheckpointWritten(step=written, path=path)
    runtime.barrier()
    yield Ended(progress=progress, finished=progress.step >= config.max_steps)


def reduce_loss_and_stop(loss: Tensor, stop: bool, runtime: Runtime) -> tuple[float, bool]:
    """The loss over all processes, and whether any of them was asked to stop."""
    both = torch.stack((loss, torch.tensor(float(stop), device=loss.device)))
    loss_sum, stops = runtime.all_reduce_sum(both).tolist()
    return loss_sum, stops > 0


def check_same_step(step: int, runtime: Runtime) -> None:
    """Raise ValueError when processes start from different checkpoints (a lagging file system)."""
    bounds = runtime.all_reduce_max(torch.tensor([step, -step], device=runtime.device))
    newest, oldest = bounds[0].item(), -bounds[1].item()
    if newest != oldest:
        raise ValueError(
            f"this process found a checkpoint of step {step}, others one of step "
            f"{oldest if step == newest else newest}; try again"
        )


def may_skip(loss: float, config: TrainConfig, scaler: torch.amp.GradScaler) -> bool:
    """Whether to continue after an update that came out not finite.

    A loss scaler provokes such gradients on purpose: so it finds the largest scale that fits.
    """
    return config.non_finite == "skip" or (scaler.is_enabled() and math.isfinite(loss))


def not_finite(step: int, values: Mapping[str, float]) -> FloatingPointError:
    """An error that names the step and the first value that is not finite."""
    name, value = next((n, v) for n, v in values.items() if not math.isfinite(v))
    return FloatingPointError(
        f"step {step}: the {name} is {value}; lower the learning rate or lengthen the warm-up"
    )


def unscale(optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler) -> None:
    """Bring gradients back to their size; without a scaler they have it."""
    for optimizer in optimizers:
        scaler.unscale_(optimizer)


def clip_gradients(model: GPT, limit: float) -> float:
    """The norm of all gradients, which are scaled down to `limit` when that is set."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = full_tensor(nn.utils.get_total_norm(gradients))
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm.item()


def update(
    optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler, *, skipped: bool
) -> None:
    """Move the weights, or leave them where they are, and let go of the gradients."""
    for optimizer in optimizers:
        if not skipped:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
