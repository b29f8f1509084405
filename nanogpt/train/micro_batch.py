"""What fits: how much memory was used at most, and how large a micro-batch a device takes."""

import resource
import sys
from collections.abc import Sequence

import torch

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Tokens per forward pass that keep a device busy: a CPU by few, a GPU by many more, if they fit.
BUSY_TOKENS, BUSY_TOKENS_ON_CUDA = 8_192, 65_536

# Per parameter in float32: AdamW's two moments, and the gradients of earlier micro-batches.
RESERVED_BYTES = 12


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory tensors took on a GPU, or this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tries_what_fits(runtime: Runtime) -> bool:
    """Whether `find_micro_batch_size` can find out.

    A CPU's system ends what is too large, and sharded weights are never there as a whole to try.
    """
    return runtime.device.type == "cuda" and not runtime.sharded


def default_micro_batch_tokens(runtime: Runtime) -> int:
    """How many tokens per forward pass make the most of a device; many only where one may try."""
    return BUSY_TOKENS_ON_CUDA if tries_what_fits(runtime) else BUSY_TOKENS


def find_micro_batch_size(model: GPT, sizes: Sequence[int], runtime: Runtime) -> int:
    """The first of `sizes`, sequences per micro-batch, that every process has memory for.

    Tried by a forward and backward pass, room for the optimizer set aside; what that took at most
    is forgotten. Raises ValueError when none fits.
    """
    reserved = torch.empty(
        RESERVED_BYTES * model.n_params(), dtype=torch.uint8, device=runtime.device
    )
    ranks_that_fit = (i for i, size in enumerate(sizes) if fits(model, size, runtime))
    mine = next(ranks_that_fit, len(sizes))
    del reserved
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
    slowest = int(runtime.all_reduce_max(torch.tensor(float(mine), device=runtime.device)).item())
    if slowest == len(sizes):
        raise ValueError(
            f"not even {sizes[-1]} sequence of {model.config.block_size} tokens fits into the "
            f"memory of {runtime.device}: set NANOGPT_RECOMPUTE=true, or a smaller model"
        )
    return sizes[slowest]


def fits(model: GPT, size: int, runtime: Runtime) -> bool:
    """Whether a forward and backward pass of `size` sequences has room."""
    idx = torch.zeros(size, model.config.block_size, dtype=torch.long, device=runtime.device)
    keys = torch.zeros(size, dtype=torch.long, device=runtime.device)
    try:
        with runtime.autocast():
            loss = model(idx, idx, keys=keys)
        loss.backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()
    return True
