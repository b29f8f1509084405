"""The micro-batches of one process, read before they are needed.

Which windows they hold is a pure function of (seed, step, micro-batch, rank), and a key of (seed,
window); reading ahead changes only when they are read. A thread reads with numpy alone: torch would
give it a second team of OpenMP threads to fight with the first. Tokens stay as small as on disk
until they are used.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.data.order import WindowOrder
from nanogpt.data.prefetch import prefetch
from nanogpt.data.stream import TokenStream, check_vocabulary
from nanogpt.runtime import Runtime

CHUNK_TOKENS = 1 << 20  # read at once: so many that what is done once for all costs little
CHUNK_WINDOWS = 1 << 11  # and no more rows than these: many thousands of slices cost more each
AHEAD = 2  # chunks that are read, or being read, before they are asked for
CHOSEN = 8  # chunks whose windows are chosen in one go: hardly dearer than those of one


def micro_batches(
    stream: TokenStream,
    order: WindowOrder,
    *,
    numbers: range,
    micro: int,
    vocab_size: int,
    runtime: Runtime,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield inputs and targets (micro, T) and the windows' keys (micro,) for each of `numbers`.

    They are views of int64 on the device. This process's micro-batch m holds windows [n * micro,
    (n + 1) * micro) of the order, where n = m * world_size + rank. Raises what the reading raises:
    ValueError at a token beyond the vocabulary.
    """
    size = max(1, min(CHUNK_TOKENS // order.block_size, CHUNK_WINDOWS) // micro)  # of a chunk

    def chunks() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the first tokens and the keys of a chunk's windows, (micro-batches, micro)."""
        for i in range(0, len(numbers), size * CHOSEN):
            mine = np.asarray(numbers[i : i + size * CHOSEN]) * runtime.world_size + runtime.rank
            windows = mine[:, None] * micro + np.arange(micro)
            starts = order.starts(windows.ravel()).reshape(windows.shape)
            keys = order.keys(windows)
            for j in range(0, len(starts), size):
                yield starts[j : j + size], keys[j : j + size]

    def read(chunk: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        """Rows (micro-batches, micro, 1 + T) in the type of the files, and the keys."""
        starts, keys = chunk
        rows = stream.read_rows(starts.ravel(), order.block_size + 1)
        check_vocabulary(rows, vocab_size)
        return pinned(rows.reshape(*starts.shape, -1)), pinned(keys)

    def pinned(array: NDArray[np.integer[Any]]) -> Tensor:
        """Return the array as a tensor, for CUDA in memory that is copied from without waiting."""
        unpinned = torch.from_numpy(array)
        if runtime.device.type != "cuda":
            return unpinned
        copy = torch.empty_like(unpinned, pin_memory=True)
        copy.numpy()[:] = array
        return copy

    for rows, keys in prefetch(read, chunks(), AHEAD):
        wide, own = as_indices(rows, runtime.device), as_indices(keys, runtime.device)
        parts = (wide[..., :-1].unbind(), wide[..., 1:].unbind(), own.unbind())
        yield from zip(*parts, strict=True)


def as_indices(rows: Tensor, device: torch.device) -> Tensor:
    """The same numbers as int64 on the device, on CUDA without waiting for the copy."""
    if device.type == "cuda":
        return rows.to(device, non_blocking=True).long()  # a quarter of the bytes to copy
    return rows.long().to(device)
