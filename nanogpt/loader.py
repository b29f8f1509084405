"""The micro-batches of one process, read before they are needed.

Which windows they hold is a pure function of (seed, step, micro-batch, rank); reading ahead changes
only when they are read. A thread reads with numpy alone: torch would give it a second team of
OpenMP threads to fight with the first. Tokens stay as small as on disk until they are used.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nanogpt.ahead import read_ahead
from nanogpt.data import TokenStream, WindowOrder, check_vocabulary
from nanogpt.runtime import Runtime

CHUNK_TOKENS = 1 << 19  # read at once: so many that what is done once for all costs little
AHEAD = 2  # chunks that are read, or being read, before they are asked for


def micro_batches(
    stream: TokenStream,
    order: WindowOrder,
    *,
    numbers: range,
    micro: int,
    vocab_size: int,
    runtime: Runtime,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, views (micro, T) int64 on the device, for each of `numbers`.

    This process's micro-batch m holds windows [n * micro, (n + 1) * micro) of the order, where
    n = m * world_size + rank. Raises what the reading raises: ValueError at a token beyond the
    vocabulary.
    """

    def read(chunk: range) -> Tensor:
        """Rows (micro-batches, micro, 1 + T) in the type of the files, pinned for CUDA."""
        n = np.asarray(chunk, dtype=np.int64) * runtime.world_size + runtime.rank
        windows = n[:, None] * micro + np.arange(micro)  # (micro-batches, micro)
        rows = stream.read_rows(order.starts(windows.ravel()), order.block_size + 1)
        check_vocabulary(rows, vocab_size)
        unpinned = torch.from_numpy(rows.reshape(len(chunk), micro, -1))
        if runtime.device.type != "cuda":
            return unpinned
        pinned = torch.empty_like(unpinned, pin_memory=True)
        pinned.numpy()[:] = unpinned.numpy()
        return pinned

    size = max(1, CHUNK_TOKENS // (micro * order.block_size))
    chunks = (numbers[i : i + size] for i in range(0, len(numbers), size))
    for rows in read_ahead(read, chunks, AHEAD):
        wide = as_indices(rows, runtime.device)
        yield from zip(wide[..., :-1].unbind(), wide[..., 1:].unbind(), strict=True)


def as_indices(rows: Tensor, device: torch.device) -> Tensor:
    """The same ids as int64 on the device, on CUDA without waiting for the copy."""
    if device.type == "cuda":
        return rows.to(device, non_blocking=True).long()  # a quarter of the bytes to copy
    return rows.long().to(device)
