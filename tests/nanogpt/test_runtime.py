"""Devices are there or refused, and number formats are what was asked for."""

import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.runtime import (
    Runtime,
    choose_device,
    fastest_dtype,
    is_emulated,
    matmul_flops,
    process_group,
)

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an NVIDIA GPU")
def test_cuda_without_a_gpu_is_refused_with_what_is_there() -> None:
    with pytest.raises(ValueError, match=r"device 'cuda' is not on this machine; here: .*cpu"):
        choose_device("cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device 'abacus' is not on this machine; here: .*cpu"):
        choose_device("abacus")


def test_auto_gives_a_device_that_computes() -> None:
    device = choose_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2
    if torch.cuda.is_available():
        assert device.type == "cuda"


def test_a_device_asked_for_by_name_is_given() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("cpu", local_rank=1) == CPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_each_local_rank_gets_its_gpu() -> None:
    assert choose_device("cuda", local_rank=0) == torch.device("cuda", 0)


def test_autocast_multiplies_in_the_dtype_asked_for() -> None:
    a = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with Runtime(device=CPU, dtype=dtype).autocast():
            assert (a @ a).dtype == dtype


def test_the_fastest_dtype_is_one_that_computes() -> None:
    dtype = fastest_dtype(CPU)
    assert dtype in (torch.float32, torch.bfloat16)
    assert (torch.ones(2, 2, dtype=dtype) @ torch.ones(2, 2, dtype=dtype)).sum().item() == 8


def test_the_fastest_dtype_is_decided_by_measured_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What bfloat16 gains on processors that were measured, and the format that follows."""
    for gain, expected in ((0.008, torch.float32), (1.0, torch.float32), (1.7, torch.bfloat16)):
        monkeypatch.setattr("nanogpt.runtime.bfloat16_gain", lambda device, gain=gain: gain)
        assert fastest_dtype(CPU) == expected
        assert is_emulated(torch.bfloat16, CPU) == (gain < 0.5)
        assert not is_emulated(torch.float32, CPU)


def test_mps_trains_in_float32() -> None:
    assert fastest_dtype(torch.device("mps")) == torch.float32


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these switches are oneDNN's on x86")
def test_a_processor_that_emulates_bfloat16_is_found_out(
    python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tell oneDNN to use no instruction beyond AVX2, which has none for bfloat16."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    script = (
        "import torch\nfrom nanogpt.runtime import *\ncpu = torch.device('cpu')\n"
        "print(fastest_dtype(cpu), bfloat16_gain(cpu) < 0.5)"
    )
    assert python(script).split() == ["torch.float32", "True"]


class Formats(TorchDispatchMode):
    """Remember the number formats of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.seen |= {operand.dtype for operand in args}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_timed_in_the_format_given(dtype: torch.dtype) -> None:
    with Formats() as products:
        assert matmul_flops(CPU, dtype, size=64) > 1e6
    assert products.seen == {dtype}


AGREEMENT = """
import os, socket, sys
import torch
from nanogpt.runtime import process_group

formats = [getattr(torch, name, None) for name in sys.argv[1:]]
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
for rank, dtype in enumerate(formats):
    if os.fork() == 0:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(formats)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()})
        with process_group("cpu", dtype, None) as runtime:
            os.write(1, f"{runtime.dtype}\\n".encode())  # whole, whichever process writes first
        os._exit(0)
assert all(os.wait()[1] == 0 for _ in formats)
"""


@pytest.mark.parametrize(
    ("wishes", "agreed"),
    [
        (("bfloat16", "bfloat16"), "torch.bfloat16"),
        (("bfloat16", "float32"), "torch.float32"),
        (("float16", "bfloat16"), "torch.float32"),
        (("float32", "measured"), "torch.float32"),  # recorded in one, measured in the other
    ],
)
def test_processes_agree_on_a_format(
    python: Callable[..., str], wishes: tuple[str, str], agreed: str
) -> None:
    assert python(AGREEMENT, *wishes).split() == [agreed, agreed]


def test_one_process_is_its_own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu", torch.float32, compile=None) as runtime:
        assert runtime == Runtime(device=CPU, dtype=torch.float32)
        assert runtime.all_reduce_sum(torch.tensor(3.0)).item() == 3
        runtime.barrier()
    with process_group("cpu", None, compile=True) as runtime:
        assert runtime.dtype == fastest_dtype(CPU)
        assert runtime.compile
