"""The runtime of a process: device, number format, rank and world size.

It affects speed, never what is computed, up to rounding.
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

TRIAL_SECONDS, MIN_TRIALS = 0.004, 3  # how long a matrix product is repeated to time it

# Below it, the casts that autocast adds cost more than bfloat16 gains. It is far from both kinds of
# processor that were measured (0.01 and 1.7 to 5), so that noise does not decide.
MIN_BFLOAT16_GAIN = 1.2


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The device, number format and rank of one process, and how it shares work with others."""

    device: torch.device
    dtype: torch.dtype  # of matrix products under autocast; weights stay float32
    compile: bool = False
    rank: int = 0
    world_size: int = 1
    distributed: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"  # among processes: see nanogpt.parallel.processes
    recompute: bool = False  # activations in the backward pass, instead of keeping them
    workers: int = 1  # threads that share the sequences of an update: see nanogpt.parallel.threads

    @property
    def sharded(self) -> bool:
        """True when every weight is spread over the processes; one process alone never shards."""
        return self.distributed and self.parallel == "fsdp"

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which matrices are multiplied in `dtype`."""
        return torch.autocast(
            self.device.type,
            dtype=self.dtype,
            enabled=self.dtype != torch.float32,
            cache_enabled=self.workers == 1,  # all threads share the cache of cast weights
        )

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over all processes; may work in place."""
        if self.distributed:
            dist.all_reduce(value)
        return value

    def all_reduce_max(self, value: Tensor) -> Tensor:
        """Return the elementwise maximum of `value` over all processes; may work in place."""
        if self.distributed:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.distributed:
            dist.barrier()


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be sharded; if it is, every process must call this."""
    gather = getattr(tensor, "full_tensor", None)  # of a DTensor; importing that class takes 0.8 s
    return tensor if gather is None else gather()


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a full `tensor` as `like` is sharded; return it as it is where `like` is not."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of this name; `auto` is the first available of cuda, mps and cpu.

    Raises ValueError when the device is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    if not available.get(name, False):
        kinds = ", ".join(kind for kind, present in available.items() if present)
        raise ValueError(f"device {name!r} is not on this machine; here: {kinds}, or auto")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int = 512) -> float:
    """Time a (size, size) matrix product; return the best FLOP/s of a few."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    torch.mm(a, a)  # warm-up: starts threads and compiles a kernel
    seconds: list[float] = []
    while sum(seconds) < TRIAL_SECONDS or len(seconds) < MIN_TRIALS:
        started = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


@functools.cache
def bfloat16_gain(device: torch.device) -> float:
    """Return the speed of matrix products in bfloat16 relative to float32.

    Measured once per process, in some 20 ms: CPU flags say what a processor can do, not whether
    the library in use does it. A small product comes first, as emulated bfloat16 is a hundred times
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
    """Return whether `dtype` is bfloat16 and `device` a CPU that emulates it, slowly."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bfloat16_gain(device) < 0.5


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware gains by it, float16 on older GPUs, else float32.

    On MPS it is float32: M1 and M2 emulate bfloat16, and MPS refuses operations of mixed dtypes.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and bfloat16_gain(device) > MIN_BFLOAT16_GAIN:
        return torch.bfloat16
    return torch.float32


def common_dtype(dtype: torch.dtype, device: torch.device, distributed: bool) -> torch.dtype:
    """Return `dtype` if all processes pass the same one, otherwise float32.

    Every process must call this, whether its dtype was measured or given.
    """
    if not distributed:
        return dtype
    formats = (torch.bfloat16, torch.float16, torch.float32)
    index = torch.tensor(formats.index(dtype), device=device)
    bounds = torch.stack((index, -index))
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    highest, lowest = bounds[0].item(), -bounds[1].item()
    return dtype if highest == lowest else torch.float32


def rank_from_leader(leads: bool, device: torch.device) -> int:
    """Return this process's rank, counted cyclically from the first process that leads.

    torchrun may give rank 0 to any node. Every process must call this.
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
    """Open the process group that torchrun describes; yield the runtime of this process.

    dtype None means the fastest that all processes share, compile None means on CUDA, where it
    pays. Ranks are counted from a process that `leads`. After an error the group is not destroyed:
    that could wait for processes that wait for this one.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_device = choose_device(device, local_rank)
    if local_device.type == "cuda":
        torch.cuda.set_device(local_device)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        dist.init_process_group(
            "nccl" if local_device.type == "cuda" else "gloo",
            device_id=local_device if local_device.type == "cuda" else None,
        )
    yield Runtime(
        device=local_device,
        dtype=common_dtype(dtype or fastest_dtype(local_device), local_device, distributed),
        compile=local_device.type == "cuda" if compile is None else compile,
        rank=rank_from_leader(leads, local_device) if distributed else 0,
        world_size=dist.get_world_size() if distributed else 1,
        distributed=distributed,
        parallel=parallel,
        recompute=recompute,
    )
    if distributed:
        dist.destroy_process_group()
