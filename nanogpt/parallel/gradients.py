"""Gradient accumulation: the gradients of one update, summed over its micro-batches.

Micro-batches run one after the other, or several at a time in threads. Either way they are summed
in their order, so the result does not depend on which thread finishes first.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from nanogpt.parallel.processes import sync_gradients
from nanogpt.runtime import Runtime

# Inputs and targets (B, T), and dropout keys (B,), or None where nothing is dropped.
Batch = tuple[Tensor, Tensor, Tensor | None]


def add_gradients(
    wrapped: nn.Module,
    batches: Iterator[Batch],
    accumulation: int,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    pool: Executor | None,
) -> tuple[Tensor, float]:
    """Accumulate the gradients of the mean loss over the next `accumulation` micro-batches.

    Returns this process's share of that loss, a scalar, and the seconds it waited for data.
    """
    if pool is not None:
        return add_gradients_in_threads(wrapped, batches, accumulation, runtime, pool)
    total, waited = torch.zeros((), device=runtime.device), 0.0
    for i in range(accumulation):
        started = time.perf_counter()
        x, y, dropout_keys = next(batches)
        waited += time.perf_counter() - started
        with sync_gradients(wrapped, last=i == accumulation - 1):
            with runtime.autocast():
                loss = wrapped(x, y, dropout_keys=dropout_keys) / accumulation
            scaler.scale(loss).backward()
        total += loss.detach() / runtime.world_size
    return total, waited


def add_gradients_in_threads(
    model: nn.Module,
    batches: Iterator[Batch],
    accumulation: int,
    runtime: Runtime,
    pool: Executor,
) -> tuple[Tensor, float]:
    """Accumulate gradients as `add_gradients` does, each micro-batch in one thread of the pool."""
    params = [p for p in model.parameters() if p.requires_grad]

    def loss_and_gradients(batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, y, dropout_keys = batch
        with runtime.autocast():
            loss = model(x, y, dropout_keys=dropout_keys) / accumulation
        return loss.detach(), torch.autograd.grad(loss, params)

    total, waited = torch.zeros((), device=runtime.device), 0.0
    for done in range(0, accumulation, runtime.workers):
        started = time.perf_counter()
        group = [next(batches) for _ in range(min(runtime.workers, accumulation - done))]
        waited += time.perf_counter() - started
        for loss, gradients in pool.map(loss_and_gradients, group):
            total += loss
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = gradient if p.grad is None else p.grad.add_(gradient)
    return total, waited
