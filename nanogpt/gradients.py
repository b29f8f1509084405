"""The gradients of one update: a sum over micro-batches, one after the other or by several threads.

Sums are made in the order of the micro-batches, so they are the same whichever thread is first.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from nanogpt.parallel import sync_gradients
from nanogpt.runtime import Runtime


def add_gradients(
    wrapped: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    seeds: Sequence[int],
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    pool: Executor | None,
) -> tuple[Tensor, float]:
    """Add the gradients of one update's mean loss over a micro-batch per seed.

    Returns this process's share of that loss, a scalar, and the seconds it waited for data.
    """
    if pool is not None:
        return add_gradients_by_workers(wrapped, batches, seeds, runtime, pool)
    total, waited = torch.zeros((), device=runtime.device), 0.0
    for i, seed in enumerate(seeds, start=1):
        started = time.perf_counter()
        x, y = next(batches)
        waited += time.perf_counter() - started
        torch.manual_seed(seed)
        with sync_gradients(wrapped, last=i == len(seeds)):
            with runtime.autocast():
                loss = wrapped(x, y) / len(seeds)
            scaler.scale(loss).backward()
        total += loss.detach() / runtime.world_size
    return total, waited


def add_gradients_by_workers(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    seeds: Sequence[int],
    runtime: Runtime,
    pool: Executor,
) -> tuple[Tensor, float]:
    """Do as `add_gradients`, each micro-batch by one thread of the pool.

    They are summed in the order of the micro-batches, so the same whichever thread is first.
    """
    params = [p for p in model.parameters() if p.requires_grad]

    def gradients(batch: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        with runtime.autocast():
            loss = model(*batch, generator=torch.Generator().manual_seed(seed)) / len(seeds)
        return loss.detach(), torch.autograd.grad(loss, params)

    total, waited = torch.zeros((), device=runtime.device), 0.0
    for first in range(0, len(seeds), runtime.workers):
        group = seeds[first : first + runtime.workers]
        started = time.perf_counter()
        own = [next(batches) for _ in group]
        waited += time.perf_counter() - started
        for loss, parts in pool.map(gradients, own, group):
            total += loss
            for p, part in zip(params, parts, strict=True):
                p.grad = part if p.grad is None else p.grad.add_(part)
    return total, waited
