"""The training loop, a generator of events.

It yields what happened and leaves to its caller what to make of it: there are no callbacks, no
tracker and no printing in here. Nothing random is carried from step to step: the order of the data
and the dropout of each micro-batch are functions of (seed, step), so a run that is interrupted and
resumed computes what an uninterrupted one does.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.checkpoint import CheckpointWriter, Progress, checkpoints, copy_state, load_state
from nanogpt.data import TokenStream, WindowOrder, mix, read_windows
from nanogpt.evaluate import evaluate_split
from nanogpt.model import GPT, GPTConfig
from nanogpt.optim import OptimConfig, build_optimizers, lr_ratio, set_lr
from nanogpt.parallel import check_optimizer, sync_gradients, whole_weights, wrap
from nanogpt.runtime import Runtime, whole


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What decides the result of a training, beside model and data."""

    optim: OptimConfig
    batch_tokens: int  # tokens per update over all processes
    max_steps: int
    eval_interval: int
    eval_tokens: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Started:
    """Training begins or resumes after `step` finished updates."""

    step: int
    micro_batch: int  # sequences per process and forward pass
    accumulation: int  # forward passes per update


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One update: its loss is the mean over the global batch before the update, in nats."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The loss on eval_tokens of the validation split, spread evenly over it."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten:
    """The checkpoint of `step` lies complete at `path`; updates went on while it was written."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """No more events; `finished` is False when the training was asked to stop before its end."""

    progress: Progress
    finished: bool


TrainEvent = Started | StepDone | Evaluated | CheckpointWritten | Ended


def micro_batch_size(
    batch_tokens: int, block_size: int, world_size: int, limit_tokens: int
) -> tuple[int, int]:
    """(sequences per micro-batch, accumulation steps) that make the global batch exactly.

    Raises ValueError when batch_tokens does not divide among the processes.
    """
    sequences, rest = divmod(batch_tokens, block_size * world_size)
    if rest or not sequences:
        raise ValueError(
            f"batch_tokens {batch_tokens} is not a multiple of block_size x processes "
            f"({block_size} x {world_size}); set train.batch_tokens to one, or NANOGPT_PROCESSES"
        )
    micro = max(n for n in divisors(sequences) if n == 1 or n * block_size <= limit_tokens)
    return micro, sequences // micro


def divisors(n: int) -> list[int]:
    """All divisors of n."""
    return [d for d in range(1, n + 1) if n % d == 0]


def train(
    model: GPT,
    train_stream: TokenStream,
    val_stream: TokenStream,
    config: TrainConfig,
    *,
    separator: int,
    runtime: Runtime,
    folder: Path,
    identity: Mapping[str, Any],
    micro_batch_tokens: int,
    stop: Event,
) -> Iterator[TrainEvent]:
    """Train `model` in place, from the newest checkpoint in `folder` if there is one.

    Raises FloatingPointError at a loss that is not finite, OSError when a checkpoint cannot be
    written, ValueError at a batch that does not divide or a checkpoint that does not belong here.
    """
    block_size = model.config.block_size
    micro, accumulation = micro_batch_size(
        config.batch_tokens, block_size, runtime.world_size, micro_batch_tokens
    )
    order = WindowOrder(n_tokens=len(train_stream), block_size=block_size, seed=config.seed)
    check_optimizer(config.optim, runtime)
    wrapped = wrap(model.train(), runtime)
    optimizers = build_optimizers(model, config.optim)
    progress = Progress(step=0, best_step=None, best_loss=None)
    if found := checkpoints(folder):
        progress, _ = load_state(found[-1], model, optimizers, identity)
    check_same_step(progress.step, runtime)
    batches = Batches(train_stream, order, model.config, micro, accumulation, runtime)
    yield Started(step=progress.step, micro_batch=micro, accumulation=accumulation)

    stopping = False
    with CheckpointWriter(folder, identity) as writer:
        while progress.step < config.max_steps and not stopping:
            started, step = time.perf_counter(), progress.step + 1
            ratio = lr_ratio(progress.step, config.optim, config.max_steps)
            set_lr(optimizers, ratio)
            share = add_gradients(wrapped, batches, progress.step, config.seed, runtime)
            grad_norm = clip_gradients(model, config.optim.grad_clip)
            loss, stopping = agree(share, stop.is_set(), runtime)
            check_finite(step, {"loss": loss, "gradient norm": grad_norm})
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress = replace(progress, step=step)
            yield StepDone(
                step=step,
                loss=loss,
                lr=config.optim.learning_rate * ratio,
                grad_norm=grad_norm,
                seconds=time.perf_counter() - started,
            )
            due = step % config.eval_interval == 0 or step == config.max_steps
            if due:
                with whole_weights(model, runtime):
                    evaluation = evaluate_split(
                        model,
                        val_stream,
                        separator=separator,
                        runtime=runtime,
                        batch_tokens=micro_batch_tokens,
                        max_windows=max(1, config.eval_tokens // block_size),
                    )
                check_finite(step, {"validation loss": evaluation.loss})
                is_best = progress.best_loss is None or evaluation.loss < progress.best_loss
                if is_best:
                    progress = replace(progress, best_step=step, best_loss=evaluation.loss)
                yield Evaluated(step=step, loss=evaluation.loss, is_best=is_best)
            for written, path in writer.finished(wait=due or stopping):
                yield CheckpointWritten(step=written, path=path)
            if due or stopping:
                writer.start(copy_state(model, optimizers, progress, keep=runtime.rank == 0))
        for written, path in writer.finished(wait=True):
            yield CheckpointWritten(step=written, path=path)
    runtime.barrier()
    yield Ended(progress=progress, finished=progress.step >= config.max_steps)


@dataclass(frozen=True)
class Batches:
    """The share of every global batch that this process reads."""

    stream: TokenStream
    order: WindowOrder
    model: GPTConfig
    micro: int
    accumulation: int
    runtime: Runtime

    def index(self, i: int) -> int:
        """Which micro-batch of the global batch this process takes as its i-th."""
        return i * self.runtime.world_size + self.runtime.rank

    def read(self, step: int, i: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (micro, T) of this process's i-th micro-batch after `step` updates."""
        per_step = self.accumulation * self.runtime.world_size
        first = (step * per_step + self.index(i)) * self.micro
        starts = [self.order.start(k) for k in range(first, first + self.micro)]
        x, y = read_windows(self.stream, starts, self.model.block_size, self.model.vocab_size)
        return x.to(self.runtime.device), y.to(self.runtime.device)


def add_gradients(
    wrapped: nn.Module, batches: Batches, step: int, seed: int, runtime: Runtime
) -> Tensor:
    """Gradients of one update's mean loss; this process's share of that loss, a scalar."""
    total = torch.zeros((), device=runtime.device)
    for i in range(batches.accumulation):
        x, y = batches.read(step, i)
        torch.manual_seed(mix(seed, step, batches.index(i)))  # dropout of this micro-batch
        with sync_gradients(wrapped, last=i == batches.accumulation - 1):
            with runtime.autocast():
                loss = wrapped(x, y).mean() / batches.accumulation
            loss.backward()
        total += loss.detach() / runtime.world_size
    return total


def agree(loss: Tensor, stop: bool, runtime: Runtime) -> tuple[float, bool]:
    """The loss over all processes, and whether any of them was asked to stop."""
    both = torch.stack((loss, torch.tensor(float(stop), device=loss.device)))
    loss_sum, stops = runtime.all_reduce_sum(both).tolist()
    return loss_sum, stops > 0


def check_same_step(step: int, runtime: Runtime) -> None:
    """Raise ValueError when processes start from different checkpoints (a lagging file system)."""
    steps = runtime.all_reduce_sum(torch.tensor([float(step), 1.0], device=runtime.device))
    if steps[0].item() != step * steps[1].item():
        raise ValueError(
            f"this process found a checkpoint of step {step}, others another; try again"
        )


def check_finite(step: int, values: Mapping[str, float]) -> None:
    """Raise FloatingPointError, naming the step, when a value is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {step}: the {name} is {value}; "
                "lower the learning rate or lengthen the warm-up"
            )


def clip_gradients(model: GPT, limit: float) -> float:
    """The norm of all gradients, which are scaled down to `limit` when that is set."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = whole(nn.utils.get_total_norm(gradients))
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm.item()
