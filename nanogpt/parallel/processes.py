"""Data parallelism over several processes: DDP or FSDP.

`ddp`: every process holds the full model, and gradients are averaged. `fsdp` (FSDP2, Zhao et al.
2023): each process holds a shard of every weight, gradient and optimizer state, and gathers the
weights of one block at a time when it needs them. Both compute the same, up to rounding. Neither
changes autocast: weights are kept and gathered, and gradients averaged, in their own dtype.
"""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nanogpt.config import OptimConfig
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Do not sync buffers: they are the factors of rotary positions, the same everywhere. torch 2.13
# renamed the option and warns about the older name.
NO_BUFFER_SYNC: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


def wrap(model: GPT, runtime: Runtime) -> nn.Module:
    """Prepare a model for training: compile it and make it data parallel, as the runtime says.

    `fsdp` replaces each parameter by its shard, so build optimizers after this.
    """
    model.recompute = runtime.recompute
    if runtime.sharded:
        shard(model, runtime)
        return model
    wrapped: nn.Module = torch.compile(model) if runtime.compile else model  # type: ignore[assignment] # torch types it as a callable
    if runtime.distributed:
        device_ids = [runtime.device.index] if runtime.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            wrapped,
            device_ids=device_ids,
            gradient_as_bucket_view=True,
            **NO_BUFFER_SYNC,
        )
    return wrapped


def shard(model: GPT, runtime: Runtime) -> None:
    """Shard each parameter along its first axis; blocks are gathered and freed one by one.

    Blocks are compiled one by one too: the hooks between them, which gather weights, cannot be.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # importing takes 0.8 s

    # The warning is about in-place changes; the losses are a view, but never changed in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
    for block in model.h:
        if runtime.compile:
            block.compile()
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def check_optimizer(config: OptimConfig, runtime: Runtime) -> None:
    """Raise ValueError when an optimizer that needs full matrices would get shards."""
    if runtime.sharded and config.optimizer == "muon":
        raise ValueError(
            "optimizer muon needs full matrices, but NANOGPT_PARALLEL=fsdp shards them: set "
            "NANOGPT_PARALLEL=ddp, or train.optimizer to adamw"
        )


def sync_gradients(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Return a context in which DDP averages gradients only for the `last` micro-batch.

    `fsdp` averages after each: to wait, every process would need memory for full gradients.
    """
    if isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


@contextmanager
def full_weights(model: GPT, runtime: Runtime) -> Iterator[None]:
    """Gather all weights for this context, in which processes may run the model unequally often.

    Otherwise every forward pass needs every process, to gather the weights of each block.
    """
    if not runtime.sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    yield
    for module in sharded:  # the first, the model, stays gathered between forward and backward
        module.set_reshard_after_forward(module is not sharded[0], recurse=False)
        module.reshard()
