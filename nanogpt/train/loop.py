"""The training loop, as a generator of events.

It yields what happened and leaves the rest to its caller: it has no callbacks, tracking or
printing. No random state is carried from step to step: data order is a function of (seed, step),
and dropout is a function of (seed, window), so a run that is interrupted and resumed computes what
an uninterrupted one does. It does so bit for bit where the device's own sums are deterministic
(CUDA's are not in bfloat16 or compiled: docs/decisions/0005).
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
from nanogpt.parallel.processes import check_optimizer, full_weights, wrap
from nanogpt.parallel.threads import worker_pool
from nanogpt.runtime import Runtime, full_tensor
from nanogpt.train.checkpoint import CheckpointWriter, Progress, checkpoints, copy_state, load_state
from nanogpt.train.micro_batch import can_try_sizes, find_micro_batch_size
from nanogpt.train.validation import evaluate_split


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


TrainEvent = Started | StepDone | Evaluated | CheckpointWritten | Ended


def micro_batch_sizes(
    batch_tokens: int, block_size: int, world_size: int, limit_tokens: int
) -> list[int]:
    """Return the micro-batch sizes, in sequences, that divide the global batch; largest first.

    Raises ValueError when batch_tokens cannot be divided equally among the processes.
    """
    sequences, rest = divmod(batch_tokens, block_size * world_size)
    if rest or not sequences:
        raise ValueError(
            f"batch_tokens {batch_tokens} is not a multiple of block_size x processes "
            f"({block_size} x {world_size}); set train.batch_tokens to such a multiple, or change "
            "NANOGPT_PROCESSES"
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
    """Train `model` in place, resuming from the newest checkpoint in `folder` if there is one.

    Ends early, after the update during which `stop` is set in any process. Raises
    FloatingPointError when a loss or gradient is not finite, unless such updates are skipped;
    OSError when a checkpoint cannot be written; ValueError when the batch cannot be divided or does
    not fit into memory, or when the checkpoint is damaged or belongs to another run.
    """
    # micro-batch: the largest that divides the batch and fits into memory
    block_size = model.config.block_size
    sizes = micro_batch_sizes(
        config.batch_tokens, block_size, runtime.world_size * runtime.workers, micro_batch_tokens
    )
    order = WindowOrder(n_tokens=len(train_stream), block_size=block_size, seed=config.seed)
    check_optimizer(config.optim, runtime)
    micro_batch, eval_batch_tokens = sizes[0], micro_batch_tokens
    if can_try_sizes(runtime):
        micro_batch = find_micro_batch_size(model.train(), sizes, runtime)
        eval_batch_tokens = micro_batch * block_size  # no more is known to fit
    accumulation = config.batch_tokens // (micro_batch * block_size * runtime.world_size)

    with ExitStack() as stack:
        pool = stack.enter_context(worker_pool(runtime.workers))
        wrapped = wrap(model.train(), runtime)
        optimizers = build_optimizers(model, config.optim, runtime.dtype, pool, runtime.workers)
        scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)

        # resume from the newest checkpoint
        progress = Progress(step=0, best_step=None, best_loss=None)
        if written := checkpoints(folder):
            progress, scaler_state = load_state(written[-1], model, optimizers, identity)
            if scaler_state:  # empty if the run has not used float16 until now
                scaler.load_state_dict(scaler_state)
        check_same_step(progress.step, runtime)

        # data: the windows that follow those of the finished updates
        batches = micro_batches(
            train_stream,
            order,
            indices=range(progress.step * accumulation, config.max_steps * accumulation),
            micro_batch=micro_batch,
            vocab_size=model.config.vocab_size,
            runtime=runtime,
        )
        yield Started(
            step=progress.step,
            micro_batch=micro_batch,
            accumulation=accumulation,
            too_large=sizes[0] if micro_batch < sizes[0] else None,
        )

        stopping = False
        writer = stack.enter_context(CheckpointWriter(folder, identity))
        while progress.step < config.max_steps and not stopping:
            started, step = time.perf_counter(), progress.step + 1

            # schedule: the learning rate of this update
            ratio = lr_ratio(progress.step, config.optim, config.max_steps)
            set_lr(optimizers, ratio)

            # accumulate: the gradients of all micro-batches of this update
            loss_share, loader_seconds = add_gradients(
                wrapped, batches, accumulation, scaler, runtime, pool
            )

            # clip: scale the gradients down to grad_clip if their norm is larger
            unscale(optimizers, scaler)
            grad_norm = clip_gradients(model, config.optim.grad_clip)

            # step: the processes agree on the loss and on stopping, then all update or all skip
            loss, stopping = reduce_loss_and_stop(loss_share, stop.is_set(), runtime)
            skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
            if skipped and not may_skip(loss, config, scaler):
                raise not_finite(step, {"loss": loss, "gradient norm": grad_norm})
            update_weights(optimizers, scaler, skipped=skipped)
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

            # evaluate: the validation loss, and whether it is the best so far
            evaluate = step % config.eval_interval == 0 or step == config.max_steps
            if evaluate:
                with full_weights(model, runtime):
                    evaluation = evaluate_split(
                        model,
                        val_stream,
                        eot_token=eot_token,
                        runtime=runtime,
                        batch_tokens=eval_batch_tokens,
                        pool=pool,
                        max_windows=max(1, config.eval_tokens // block_size),
                    )
                if not math.isfinite(evaluation.loss):
                    raise not_finite(step, {"validation loss": evaluation.loss})
                is_best = progress.best_loss is None or evaluation.loss < progress.best_loss
                if is_best:
                    progress = replace(progress, best_step=step, best_loss=evaluation.loss)
                yield Evaluated(step=step, loss=evaluation.loss, is_best=is_best)

            # checkpoint: copy the state and write it in the background while training continues
            for written_step, path in writer.finished(wait=evaluate or stopping):
                yield CheckpointWritten(step=written_step, path=path)
            if evaluate or stopping:
                keep, scaler_state = runtime.rank == 0, scaler.state_dict()
                writer.start(
                    copy_state(model, optimizers, progress, scaler=scaler_state, keep=keep)
                )
        for written_step, path in writer.finished(wait=True):
            yield CheckpointWritten(step=written_step, path=path)
    runtime.barrier()
    yield Ended(progress=progress, finished=progress.step >= config.max_steps)


def reduce_loss_and_stop(loss: Tensor, stop: bool, runtime: Runtime) -> tuple[float, bool]:
    """Return the sum of all processes' shares of the loss, and whether any was asked to stop."""
    both = torch.stack((loss, torch.tensor(float(stop), device=loss.device)))
    loss_sum, stops = runtime.all_reduce_sum(both).tolist()
    return loss_sum, stops > 0


def check_same_step(step: int, runtime: Runtime) -> None:
    """Raise ValueError when processes resume from different steps (a lagging file system)."""
    bounds = runtime.all_reduce_max(torch.tensor([step, -step], device=runtime.device))
    newest, oldest = bounds[0].item(), -bounds[1].item()
    if newest != oldest:
        raise ValueError(
            f"this process found a checkpoint of step {step}, others one of step "
            f"{oldest if step == newest else newest}; try again"
        )


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


def unscale(optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler) -> None:
    """Divide the gradients by the loss scale; does nothing without a scaler."""
    for optimizer in optimizers:
        scaler.unscale_(optimizer)


def clip_gradients(model: GPT, limit: float) -> float:
    """Clip the norm of all gradients to `limit`, unless it is 0; return the norm before that."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = full_tensor(nn.utils.get_total_norm(gradients))
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm.item()


def update_weights(
    optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler, *, skipped: bool
) -> None:
    """Apply the optimizers, unless the update is skipped, and free the gradients."""
    for optimizer in optimizers:
        if not skipped:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
