"""Training one model in several processes: who holds which weights, when gradients are exchanged.

`ddp`: every process holds the whole model and they average their gradients. `fsdp` (FSDP2, Zhao et
al. 2023): each holds a part of every weight, gradient and optimizer state, and gathers the weights
of one block at a time to use them. Both compute the same up to rounding. Autocast stays what it is
under either: weights are kept, gathered and averaged in their own format.
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

# Buffers are the angles of rotary positions, the same everywhere. torch 2.13 has another name for
# this and warns of the older one.
KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


def wrap(model: GPT, runtime: Runtime) -> nn.Module:
    """The model as it is trained: compiled and, among several processes, averaging gradients.

    `fsdp` puts a part of each parameter in place of the whole: build optimizers after this.
    """
    model.recompute = runtime.recompute
    if runtime.sharded:
        shard(model, runtime)
        return model
    wrapped: nn.Module = torch.compile(model) if runtime.compile else model  # type: ignore[assignment] # torch types it as a callable
    if runtime.distributed:
        ids = [runtime.device.index] if runtime.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            wrapped,
            device_ids=ids,
            gradient_as_bucket_view=True,
            **KEEP_BUFFERS,
        )
    return wrapped


def shard(model: GPT, runtime: Runtime) -> None:
    """Cut each parameter along its first axis; blocks are gathered and let go one by one.

    They are compiled one by one too, for what gathers their weights in between cannot be.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # takes 0.8 s

    # The losses are a view, and never changed in place, which is what this warning is about.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
    for block in model.h:
        if runtime.compile:
            block.compile()
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def check_optimizer(config: OptimConfig, runtime: Runtime) -> None:
    """Raise ValueError for an optimizer that needs whole matrices where there are only parts."""
    if runtime.sharded and config.optimizer == "muon":
        raise ValueError(
            "optimizer muon needs whole matrices, and NANOGPT_PARALLEL=fsdp leaves each process a "
            "part: set NANOGPT_PARALLEL=ddp, or train.optimizer to adamw"
        )


def sync_gradients(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Average gradients between processes only at the last micro-batch of an update.

    `fsdp` averages at each: to wait would take room for whole gradients in every process.
    """
    if isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


@contextmanager
def whole_weights(model: GPT, runtime: Runtime) -> Iterator[None]:
    """Inside, each process has all weights and may run the model as often as it likes.

    Otherwise all would have to run it equally often: gathering takes every process.
    """
    if not runtime.sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield
    for part in parts:  # the first is the model itself, kept between forward and backward pass
        part.set_reshard_after_forward(part is not parts[0], recurse=False)
        part.reshard()
