"""How a batch is divided into micro-batches that fit into memory, and the peak memory used."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Tokens per forward pass that keep a device busy: few for a CPU, many more for a GPU, if they fit.
DEFAULT_TOKENS, DEFAULT_TOKENS_ON_CUDA = 8_192, 65_536

# Per parameter, in float32: AdamW's two moments and the accumulated gradient.
RESERVED_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """How the batch of an update is divided into forward passes."""

    micro_batch: int  # sequences per process and forward pass
    accumulation: int  # micro-batches per process and update
    eval_batch_tokens: int  # tokens per forward pass without gradients
    too_large: int | None  # a micro-batch that did not fit into memory


def choose_batch_sizes(
    model: GPT, batch_tokens: int, runtime: Runtime, limit_tokens: int
) -> BatchSizes:
    """Choose the largest micro-batch that divides the batch and fits into memory.

    It has at most limit_tokens tokens, or is a single sequence. Raises ValueError as
    `micro_batch_sizes` and `find_micro_batch_size` do.
    """
    block_size, processes = model.config.block_size, runtime.world_size
    # each worker takes micro-batches of its own
    sizes = micro_batch_sizes(batch_tokens, block_size, processes * runtime.workers, limit_tokens)
    micro_batch, eval_batch_tokens = sizes[0], limit_tokens
    if can_try_sizes(runtime):
        micro_batch = find_micro_batch_size(model, sizes, runtime)
        eval_batch_tokens = micro_batch * block_size  # no more is known to fit
    return BatchSizes(
        micro_batch=micro_batch,
        accumulation=batch_tokens // (micro_batch * block_size * processes),
        eval_batch_tokens=eval_batch_tokens,
        too_large=sizes[0] if micro_batch < sizes[0] else None,
    )


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


def can_try_sizes(runtime: Runtime) -> bool:
    """Return whether `find_micro_batch_size` works: on GPUs whose weights are not sharded.

    When a CPU runs out of memory, the system kills the process; sharded weights are never complete
    on one device before training.
    """
    return runtime.device.type == "cuda" and not runtime.sharded


def default_micro_batch_tokens(runtime: Runtime) -> int:
    """Return the tokens per forward pass to aim at: many only where smaller sizes can be tried."""
    return DEFAULT_TOKENS_ON_CUDA if can_try_sizes(runtime) else DEFAULT_TOKENS


def find_micro_batch_size(model: GPT, sizes: Sequence[int], runtime: Runtime) -> int:
    """Return the first of `sizes`, sequences per micro-batch, that fits in every process.

    Tries a forward and backward pass with memory reserved for the optimizer, then resets the peak
    memory statistics. Raises ValueError when none fits.
    """
    reserved = torch.empty(
        RESERVED_BYTES * model.n_params(), dtype=torch.uint8, device=runtime.device
    )
    fitting = (i for i, size in enumerate(sizes) if fits(model, size, runtime))
    first = next(fitting, len(sizes))
    del reserved
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
    index = int(runtime.all_reduce_max(torch.tensor(float(first), device=runtime.device)).item())
    if index == len(sizes):
        raise ValueError(
            f"a single sequence of {model.config.block_size} tokens does not fit in memory on "
            f"{runtime.device}: set NANOGPT_RECOMPUTE=true or use a smaller model"
        )
    return sizes[index]


def fits(model: GPT, size: int, runtime: Runtime) -> bool:
    """Return whether a forward and backward pass of `size` sequences fits into memory."""
    idx = torch.zeros(size, model.config.block_size, dtype=torch.long, device=runtime.device)
    dropout_keys = torch.zeros(size, dtype=torch.long, device=runtime.device)
    try:
        with runtime.autocast():
            loss = model(idx, idx, dropout_keys=dropout_keys)
        loss.backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of tensors on a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
