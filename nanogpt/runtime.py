"""Where a model runs: device, number format, and this process among its peers.

What is here changes speed, never what is computed, up to rounding.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

TRIAL_SECONDS, MIN_TRIALS = 0.004, 3  # how long a product is repeated to find its speed

# Below it the conversions that autocast adds eat what bfloat16 gains; far from both kinds of
# processor that were measured (0.01 and 1.7 to 5), so that noise does not decide.
MIN_BFLOAT16_GAIN = 1.2


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One process's device and number format, and its place among `world_size` processes."""

    device: torch.device
    dtype: torch.dtype  # what matrices are multiplied in; weights stay float32
    compile: bool = False
    rank: int = 0
    world_size: int = 1
    distributed: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"  # among processes: see nanogpt.parallel.processes
    recompute: bool = False  # activations in the backward pass, instead of keeping them
    workers: int = 1  # threads that share the sequences of an update: see nanogpt.parallel.threads

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of every weight; one alone has no other to share."""
        return self.distributed and self.parallel == "fsdp"

    def autocast(self) -> AbstractContextManager[None]:
        """Multiply matrices in `dtype` inside this context."""
        return torch.autocast(
            self.device.type,
            dtype=self.dtype,
            enabled=self.dtype != torch.float32,
            cache_enabled=self.workers == 1,  # the cache of cast weights is one for all threads
        )

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        if self.distributed:
            dist.all_reduce(value)
        return value

    def all_reduce_max(self, value: Tensor) -> Tensor:
        """The largest `value` of all processes."""
        if self.distributed:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.distributed:
            dist.barrier()


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, of which every process may hold a part; then all of them must call this."""
    gather = getattr(tensor, "full_tensor", None)  # DTensor's; to import that class takes 0.8 s
    return tensor if gather is None else gather()


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole `tensor` that this process holds of `like`, which may be all of it."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` takes the first of cuda, mps, cpu that is there; another name must be there.

    Raises ValueError when a device is asked for by name and missing.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, present in there.items() if present)
    if not there.get(name, False):
        found = ", ".join(kind for kind, present in there.items() if present)
        raise ValueError(f"device {name!r} is not on this machine; here: {found}, or auto")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int = 512) -> float:
    """Return the operations per second of a (size, size) product, the best of a few."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    torch.mm(a, a)  # the first one also starts threads and compiles a kernel
    seconds: list[float] = []
    while sum(seconds) < TRIAL_SECONDS or len(seconds) < MIN_TRIALS:
        started = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


@functools.cache
def bfloat16_gain(device: torch.device) -> float:
    """Return how many times as fast as in float32 a processor multiplies in bfloat16.

    Measured once per process, in some 20 ms: flags say what a processor can do, not whether the
    library in use does it. A small product comes first, for emulated bfloat16 is a hundred times
    slower than float32.
    """
    for size in (128, 512):
        bfloat16, float32 = (
            matmul_flops(device, dtype, size) for dtype in (torch.bfloat16, torch.float32)
        )
        if bfloat16 < float32 / 4:  # emulated
            break
    return bfloat16 / float32


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a processor has no instructions for products in bfloat16, and is slow at them."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bfloat16_gain(device) < 0.5


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, on older GPUs float16.

    On MPS float32: M1 and M2 emulate bfloat16, and operations of mixed types are refused there.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and bfloat16_gain(device) > MIN_BFLOAT16_GAIN:
        return torch.bfloat16
    return torch.float32


def common_dtype(dtype: torch.dtype, device: torch.device, distributed: bool) -> torch.dtype:
    """Return the format that all processes wish for, float32 where they differ.

    All of them must call this, whether the format was measured or given.
    """
    if not distributed:
        return dtype
    formats = (torch.bfloat16, torch.float16, torch.float32)
    number = torch.tensor(formats.index(dtype), device=device)
    bounds = torch.stack((number, -number))
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    highest, lowest = bounds[0].item(), -bounds[1].item()
    return dtype if highest == lowest else torch.float32


def rank_from_leader(leads: bool, device: torch.device) -> int:
    """Return this process's rank, counted from the first one that leads, which gets 0.

    torchrun gives rank 0 to whichever node it likes. All processes must call this.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    first = torch.tensor(rank if leads else world_size, device=device)
    dist.all_reduce(first, op=dist.ReduceOp.MIN)
    return (rank - int(first.item())) % world_size


@contextmanager
def process_group(
    device: str,
    dtype: torch.dtype | None,
    compile: bool | None,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    recompute: bool = False,
    leads: bool = True,
) -> Iterator[Runtime]:
    """The runtime of a process that torchrun started, its process group open meanwhile.

    dtype None means the fastest that all processes have, compile None means where it pays (on
    CUDA). Ranks are counted from a process that `leads`. After an error the group is left as it is:
    to close it may mean to wait for processes that wait for this one.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    where = choose_device(device, local_rank)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        dist.init_process_group(
            "nccl" if where.type == "cuda" else "gloo",
            device_id=where if where.type == "cuda" else None,
        )
    yield Runtime(
        device=where,
        dtype=common_dtype(dtype or fastest_dtype(where), where, distributed),
        compile=where.type == "cuda" if compile is None else compile,
        rank=rank_from_leader(leads, where) if distributed else 0,
        world_size=dist.get_world_size() if distributed else 1,
        distributed=distributed,
        parallel=parallel,
        recompute=recompute,
    )
    if distributed:
        dist.destroy_process_group()
