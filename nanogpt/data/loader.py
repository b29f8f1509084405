"""The micro-batches of one process, prefetched.

Which windows they hold is a pure function of (seed, step, micro-batch, rank), and a window's
dropout key one of (seed, window); prefetching only changes when they are read. The reader thread
uses numpy alone: torch would give it a second team of OpenMP threads, which would compete with the
first. Tokens stay as small as on disk until they are used.
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

CHUNK_TOKENS = 1 << 20  # read at once, so that the fixed cost of a read hardly counts
CHUNK_WINDOWS = 1 << 11  # rows per chunk at most: with many thousands of slices, each costs more
PREFETCHED_CHUNKS = 2
ORDERED_CHUNKS = 8  # whose windows are computed at once, at hardly more than the cost of one's

# Where the windows of some micro-batches start, and their dropout keys: (micro-batches, B) each.
Chunk = tuple[NDArray[np.int64], NDArray[np.int64]]


def micro_batches(
    stream: TokenStream,
    order: WindowOrder,
    *,
    indices: range,
    micro_batch: int,
    vocab_size: int,
    runtime: Runtime,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield inputs and targets (B, T) and dropout keys (B,) for each of `indices`.

    They are int64 views on the device. Micro-batch m of this process holds windows [n B, (n + 1) B)
    of the order, where n = m * world_size + rank and B = micro_batch. Raises ValueError at a token
    beyond the vocabulary.
    """
    chunk_windows = min(CHUNK_TOKENS // order.block_size, CHUNK_WINDOWS)
    size = max(1, chunk_windows // micro_batch)  # micro-batches per chunk

    def read(chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Read a chunk: rows (micro-batches, B, 1 + T) in the dtype of the files, and keys."""
        starts, keys = chunk
        rows = stream.read_rows(starts.ravel(), order.block_size + 1)
        check_vocabulary(rows, vocab_size)
        rows = rows.reshape(*starts.shape, -1)
        return to_tensor(rows, runtime.device), to_tensor(keys, runtime.device)

    chunks = window_chunks(order, indices, micro_batch, size, runtime)
    for rows, keys in prefetch(read, chunks, PREFETCHED_CHUNKS):
        idx, dropout_keys = to_indices(rows, runtime.device), to_indices(keys, runtime.device)
        parts = (idx[..., :-1].unbind(), idx[..., 1:].unbind(), dropout_keys.unbind())
        yield from zip(*parts, strict=True)


def window_chunks(
    order: WindowOrder, indices: range, micro_batch: int, size: int, runtime: Runtime
) -> Iterator[Chunk]:
    """Yield the windows of this process, `size` micro-batches at a time."""
    for i in range(0, len(indices), size * ORDERED_CHUNKS):
        m = np.asarray(indices[i : i + size * ORDERED_CHUNKS])
        n = m * runtime.world_size + runtime.rank
        windows = n[:, None] * micro_batch + np.arange(micro_batch)
        starts = order.starts(windows.ravel()).reshape(windows.shape)
        keys = order.dropout_keys(windows)
        for j in range(0, len(starts), size):
            yield starts[j : j + size], keys[j : j + size]


def to_tensor(array: NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Return the array as a tensor, for CUDA in pinned memory, from which copies are async."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    pinned = torch.empty_like(tensor, pin_memory=True)
    pinned.numpy()[:] = array
    return pinned


def to_indices(rows: Tensor, device: torch.device) -> Tensor:
    """Convert to int64 on the device, on CUDA without waiting for the copy."""
    if device.type == "cuda":
        # cast after the copy, which then has a quarter of the bytes
        return rows.to(device, non_blocking=True).long()
    return rows.long().to(device)
