"""Data parallelism among the threads of one process, on processors.

OpenMP cuts every operation in two for two cores, and its threads wait for each other a thousand
times per update, spinning: cut so small, work gains little, and when another program wants one of
the cores, both wait for it. Here each thread runs whole forward and backward passes on sequences of
its own, and threads meet once per update. Sums are made in the order of the micro-batches, so the
result depends on the number of workers alone, not on which of them was slow.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Fewer tokens per forward pass and the interpreter, of which there is one, takes too large a share.
MIN_WORKER_TOKENS = 512

# Each worker holds gradients of its own: with more bytes the cores share one pass instead.
MAX_GRADIENT_BYTES = 1 << 30


def default_workers(model: GPT, batch_tokens: int, runtime: Runtime) -> int:
    """Return how many threads share the sequences of an update: at most one per core.

    One, and so the operations shared by all cores, on other devices, among several processes,
    compiled, and with recomputation, which is asked for where there is no memory for more.
    """
    if runtime.device.type != "cpu" or runtime.distributed or runtime.compile or runtime.recompute:
        return 1
    sequences = batch_tokens // model.config.block_size
    most = min(
        torch.get_num_threads(),
        batch_tokens // MIN_WORKER_TOKENS,
        MAX_GRADIENT_BYTES // (4 * model.n_params()),
    )
    return max((n for n in range(1, most + 1) if sequences % n == 0), default=1)


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor | None]:
    """Give a pool of that many threads, among which the cores are divided; None for one."""
    if workers == 1:
        yield None
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
