"""A check that CUDA computes what the CPU does.

In float32 and uncompiled, where sums are deterministic: losses, evaluation and samples nearly
equal, a resume bit for bit. Then, one by one: bfloat16, the same compiled, float16, activation
recomputation, DDP and FSDP over NCCL (with one process, as many as one GPU takes); dropout, which
is the same on either device, compiled or not; and a micro-batch that does not fit into memory.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.train_speed import config_of, train_config
from nanogpt.config import Sampling
from nanogpt.data.stream import TokenStream
from nanogpt.generate.decode import generate
from nanogpt.generate.gemv import decoding_copy
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import Ended, StepDone
from nanogpt.train.loop import train
from nanogpt.train.micro_batch import find_micro_batch_size
from nanogpt.train.validation import evaluate_split

STEPS = 10
# Of losses over ten updates. Muon multiplies in bfloat16, so another order of sums shows: by up to
# 1.9e-3 on a CPU.
LOSS_TOLERANCE = {"adamw": 1e-4, "muon": 1e-2}
HALF_TOLERANCE = 5e-3  # of losses near 6; on a CPU 1e-3
EVALUATION_TOLERANCE = 1e-5

CPU = Runtime(device=torch.device("cpu"), dtype=torch.float32)
CUDA = Runtime(device=torch.device("cuda"), dtype=torch.float32)


def train_small(
    folder: Path,
    runtime: Runtime,
    optimizer: str,
    stop_after: int | None = None,
    *,
    dropout: float = 0.0,
    micro_batch_tokens: int = 1024,
) -> tuple[GPT, list[float]]:
    """Train a small model on a repeating pattern; return it and the loss of each update."""
    torch.manual_seed(0)
    model = GPT(config_of("default", "modern", dropout)).to(runtime.device)
    stream = TokenStream([(np.arange(1 << 16) ** 2 % 1000).astype(np.uint16)])
    stop, losses = threading.Event(), []
    events = train(
        model,
        stream,
        stream,
        train_config(optimizer, 2048, STEPS),
        runtime=runtime,
        folder=folder,
        identity={},
        micro_batch_tokens=micro_batch_tokens,
        stop=stop,
    )
    for event in events:
        if isinstance(event, StepDone):
            losses.append(event.loss)
            if event.step == stop_after:
                stop.set()
        if isinstance(event, Ended):
            assert event.finished == (stop_after is None)
    return model, losses


def largest_difference(losses: list[float], expected: list[float]) -> float:
    """Return the largest difference between the losses of two training runs, update by update."""
    return max(abs(a - b) for a, b in zip(losses, expected, strict=True))


def check_training(root: Path, optimizer: str) -> tuple[GPT, GPT]:
    """Check that both devices train alike, and that resuming equals no interruption.

    Returns the models trained on the CPU and on CUDA.
    """
    on_cpu, cpu_losses = train_small(root / f"{optimizer}-cpu", CPU, optimizer)
    on_cuda, cuda_losses = train_small(root / f"{optimizer}-cuda", CUDA, optimizer)
    difference = largest_difference(cpu_losses, cuda_losses)
    print(f"{optimizer}: largest difference of losses {difference:.2e}")
    assert difference < LOSS_TOLERANCE[optimizer]

    folder = root / f"{optimizer}-resumed"
    _, first = train_small(folder, CUDA, optimizer, stop_after=4)
    resumed, rest = train_small(folder, CUDA, optimizer)
    assert first + rest == cuda_losses
    pairs = zip(resumed.parameters(), on_cuda.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    print(f"{optimizer}: resumed, the same losses and weights bit for bit")
    return on_cpu, on_cuda


@contextmanager
def nccl_group_of_one() -> Iterator[None]:
    """Open an NCCL process group of this process alone."""
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    os.environ.update(environment)
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    yield
    dist.destroy_process_group()


def is_close(
    expected: list[float], folder: Path, name: str, runtime: Runtime, tolerance: float
) -> bool:
    """Train with a runtime; print and return whether its losses are within the tolerance."""
    _, losses = train_small(folder, runtime, "adamw")
    difference = largest_difference(losses, expected)
    print(f"{name}: largest difference of losses {difference:.2e}, allowed {tolerance:.0e}")
    return difference < tolerance


def check_runtimes(root: Path) -> None:
    """Check that other runtimes give the losses of plain float32, up to their number format."""
    _, expected = train_small(root / "plain", CUDA, "adamw")
    half = replace(CUDA, dtype=torch.bfloat16)
    runtimes = {
        "bfloat16": (half, HALF_TOLERANCE),
        "bfloat16, compiled": (replace(half, compile=True), HALF_TOLERANCE),
        "float16, scaled": (replace(CUDA, dtype=torch.float16), HALF_TOLERANCE),
        "recomputed": (replace(CUDA, recompute=True), LOSS_TOLERANCE["adamw"]),
    }
    distributed = replace(CUDA, device=torch.device("cuda", 0), distributed=True)
    distributed_runtimes = {
        "ddp by NCCL": (distributed, LOSS_TOLERANCE["adamw"]),
        "fsdp by NCCL": (replace(distributed, parallel="fsdp"), LOSS_TOLERANCE["adamw"]),
    }
    close = [is_close(expected, root / name, name, *setting) for name, setting in runtimes.items()]
    with nccl_group_of_one():
        close += [
            is_close(expected, root / name, name, *setting)
            for name, setting in distributed_runtimes.items()
        ]
    assert all(close)


def check_dropout(root: Path) -> None:
    """Check that losses with dropout equal the CPU's, for any micro-batch, compiled or not."""
    _, expected = train_small(root / "dropout-cpu", CPU, "adamw", dropout=0.2)
    half = replace(CUDA, dtype=torch.bfloat16)
    runtimes = {
        "float32": (CUDA, 1024, LOSS_TOLERANCE["adamw"]),
        "twice the micro-batch": (CUDA, 2048, LOSS_TOLERANCE["adamw"]),
        "compiled": (replace(CUDA, compile=True), 1024, LOSS_TOLERANCE["adamw"]),
        "recomputed": (replace(CUDA, recompute=True), 1024, LOSS_TOLERANCE["adamw"]),
        "bfloat16, compiled": (replace(half, compile=True), 2048, HALF_TOLERANCE),
    }
    for name, (runtime, micro_batch_tokens, tolerance) in runtimes.items():
        folder = root / f"dropout-{name}"
        _, losses = train_small(
            folder, runtime, "adamw", dropout=0.2, micro_batch_tokens=micro_batch_tokens
        )
        difference = largest_difference(losses, expected)
        print(f"dropout, {name}: largest difference of losses {difference:.2e}")
        assert difference < tolerance


def check_memory() -> None:
    """Check that a micro-batch of ten times the GPU's memory is passed over for one that fits."""
    model = GPT(config_of("gpt2", "gpt2")).to(CUDA.device)
    total = torch.cuda.get_device_properties(0).total_memory
    too_many = 10 * total // (12 * 1024 * 768 * 2)  # counting one vector per token and layer
    micro_batch = find_micro_batch_size(model, [too_many, 1], replace(CUDA, dtype=torch.bfloat16))
    print(f"memory: {too_many} sequences of 1,024 do not fit, {micro_batch} does")
    assert micro_batch == 1


def check_inference(on_cpu: GPT, on_cuda: GPT) -> None:
    """Check that the same weights give the same evaluation; print how alike greedy samples are."""
    on_cuda.load_state_dict(on_cpu.state_dict())
    stream = TokenStream([(np.arange(5000) ** 2 % 1000).astype(np.uint16)])
    losses = [
        evaluate_split(model, stream, runtime=runtime).loss
        for model, runtime in ((on_cpu, CPU), (on_cuda, CUDA))
    ]
    print(f"evaluation: {losses[0]:.6f} and {losses[1]:.6f}")
    assert abs(losses[0] - losses[1]) < EVALUATION_TOLERANCE
    samples = [
        torch.stack(
            list(
                generate(
                    decoding_copy(model, runtime),
                    [torch.tensor([1, 4, 9])],
                    200,
                    sampling=Sampling(temperature=0.0),
                    seeds=[0],
                )
            )
        ).cpu()
        for model, runtime in ((on_cpu, CPU), (on_cuda, CUDA))
    ]
    print(f"greedy sample: {(samples[0] == samples[1]).float().mean():.1%} of tokens equal")


def main() -> None:
    """Run `python -m benchmarks.cuda_check`."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        models = [check_training(root, optimizer) for optimizer in LOSS_TOLERANCE]
        check_inference(*models[-1])
        check_runtimes(root)
        check_dropout(root)
        check_memory()


if __name__ == "__main__":
    main()
