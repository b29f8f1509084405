"""The gradients of one update: a sum over micro-batches, one after the other or by several threads.

Sums are made in the order of the micro-batches, so they are the same whichever thread is first.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from nanogpt.parallel.processes import sync_gradients
from nanogpt.runtime import Runtime

# Inputs and targets (B, T), and keys (B,) for dropout, or None where there is none.
Batch = tuple[Tensor, Tensor, Tensor | None]


def add_gradients(
    wrapped: nn.Module,
    batches: Iterator[Batch],
    accumulation: int,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    pool: Executor | None,
) -> tuple[Tensor, float]:
    """Add the gradients of one update's mean loss over the next `accumulation` micro-batches.

    Returns this process's share of that loss, a scalar, and the seconds it waited for data.
    """
    if pool is not None:
        return add_gradients_by_workers(wrapped, batches, accumulation, runtime, pool)
    total, waited = torch.zeros((), device=runtime.device), 0.0
    for i in range(accumulation):
        started = time.perf_counter()
        x, y, keys = next(batches)
        waited += time.perf_counter() - started
        with sync_gradients(wrapped, last=i == accumulation - 1):
            with runtime.autocast():
                loss = wrapped(x, y, keys=keys) / accumulation
            scaler.scale(loss).backward()
        total += loss.detach() / runtime.world_size
    return total, waited


def add_gradients_by_workers(
    model: nn.Module,
    batches: Iterator[Batch],
    accumulation: int,
    runtime: Runtime,
    pool: Executor,
) -> tuple[Tensor, float]:
    """Do as `add_gradients`, each micro-batch by one thread of the pool.

    They are summed in the order of the micro-batches, so the same whichever thread is first.
    """
    params = [p for p in model.parameters() if p.requires_grad]

    def gradients(batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, y, keys = batch
        with runtime.autocast():
            loss = model(x, y, keys=keys) / accumulation
        return loss.detach(), torch.autograd.grad(loss, params)

    total, waited = torch.zeros((), device=runtime.device), 0.0
    for done in range(0, accumulation, runtime.workers):
        started = time.perf_counter()
        group = [next(batches) for _ in range(min(runtime.workers, accumulation - done))]
        waited += time.perf_counter() - started
        for loss, parts in pool.map(gradients, group):
            total += loss
            for p, part in zip(params, parts, strict=True):
                p.grad = part if p.grad is None else p.grad.add_(part)
    return total, waited
