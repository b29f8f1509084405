"""Data parallelism over the threads of one process, on CPUs.

For two cores, OpenMP splits every operation in two, and its threads wait for each other a thousand
times per update, spinning: such small pieces gain little, and when another program takes one of the
cores, both threads wait for it. Here each thread runs complete forward and backward passes on its
own sequences, and the threads synchronize once per update. Gradients are summed in the order of the
micro-batches, so the result depends on the number of workers alone, not on their speed.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# With fewer tokens per forward pass, the interpreter, which runs one thread at a time, takes too
# large a share.
MIN_WORKER_TOKENS = 512

# Each worker holds its own gradients: beyond this, the cores share each operation instead.
MAX_GRADIENT_BYTES = 1 << 30


def default_workers(model: GPT, batch_tokens: int, runtime: Runtime) -> int:
    """Return how many threads share the sequences of an update: at most one per core.

    It is 1, so that the cores share each operation, on other devices than CPUs, with several
    processes, when compiling, and with recomputation, which means that memory is short.
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
    """Yield a pool of threads that divide the cores between them, or None for one worker."""
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
