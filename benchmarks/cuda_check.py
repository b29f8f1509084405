"""That CUDA computes what the CPU does.

In float32 and uncompiled, where sums are made in the same order every time: losses, evaluation and
samples nearly equal, a resume bit for bit. Then other ways one by one: bfloat16, the same compiled,
float16, recomputed activations, gradients averaged and weights sharded by NCCL (of one process, all
that one GPU takes); dropout, which is the same on either device, compiled or not; and a micro-batch
there is no room for.
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
from nanogpt.train.loop import Ended, StepDone, train
from nanogpt.train.micro_batch import find_micro_batch_size
from nanogpt.train.validation import evaluate_split

STEPS = 10
# Of losses ten updates apart. Muon multiplies in bfloat16, so another order of sums shows: by up to
# 1.9e-3 on a CPU.
LOSS_TOLERANCE = {"adamw": 1e-4, "muon": 1e-2}
HALF_TOLERANCE = 5e-3  # of losses near 6; on a CPU 1e-3
EVALUATION_TOLERANCE = 1e-5

CPU = Runtime(device=torch.device("cpu"), dtype=torch.float32)
CUDA = Runtime(device=torch.device("cuda"), dtype=torch.float32)


def trained(
    folder: Path,
    runtime: Runtime,
    optimizer: str,
    stop_after: int | None = None,
    *,
    dropout: float = 0.0,
    micro_batch_tokens: int = 1024,
) -> tuple[GPT, list[float]]:
    """A small model trained on a repeating pattern, and its losses."""
    torch.manual_seed(0)
    model = GPT(config_of("default", "modern", dropout)).to(runtime.device)
    stream = TokenStream([(np.arange(1 << 16) ** 2 % 1000).astype(np.uint16)])
    stop, losses = threading.Event(), []
    events = train(
        model,
        stream,
        stream,
        train_config(optimizer, 2048, STEPS),
        eot_token=1023,
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


def largest_difference(some: list[float], others: list[float]) -> float:
    """Of two trainings' losses, update by update."""
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def check_training(root: Path, optimizer: str) -> tuple[GPT, GPT]:
    """The model as each device trained it, nearly equal, and equal to one that was interrupted."""
    on_cpu, cpu_losses = trained(root / f"{optimizer}-cpu", CPU, optimizer)
    on_cuda, cuda_losses = trained(root / f"{optimizer}-cuda", CUDA, optimizer)
    difference = largest_difference(cpu_losses, cuda_losses)
    print(f"{optimizer}: largest difference of losses {difference:.2e}")
    assert difference < LOSS_TOLERANCE[optimizer]

    folder = root / f"{optimizer}-resumed"
    _, first = trained(folder, CUDA, optimizer, stop_after=4)
    resumed, rest = trained(folder, CUDA, optimizer)
    assert first + rest == cuda_losses
    pairs = zip(resumed.parameters(), on_cuda.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    print(f"{optimizer}: resumed, the same losses and weights bit for bit")
    return on_cpu, on_cuda


@contextmanager
def alone_by_nccl() -> Iterator[None]:
    """A process group of this process."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(place)
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    yield
    dist.destroy_process_group()


def stays_near(
    plain: list[float], folder: Path, name: str, runtime: Runtime, tolerance: float
) -> bool:
    """Whether a way to train stays within a tolerance of the plain one's losses; printed."""
    _, losses = trained(folder, runtime, "adamw")
    difference = largest_difference(losses, plain)
    print(f"{name}: largest difference of losses {difference:.2e}, allowed {tolerance:.0e}")
    return difference < tolerance


def check_ways(root: Path) -> None:
    """Each of these ways to train gives the plain one's losses, up to its number format."""
    _, plain = trained(root / "plain", CUDA, "adamw")
    half = replace(CUDA, dtype=torch.bfloat16)
    ways = {
        "bfloat16": (half, HALF_TOLERANCE),
        "bfloat16, compiled": (replace(half, compile=True), HALF_TOLERANCE),
        "float16, scaled": (replace(CUDA, dtype=torch.float16), HALF_TOLERANCE),
        "recomputed": (replace(CUDA, recompute=True), LOSS_TOLERANCE["adamw"]),
    }
    many = replace(CUDA, device=torch.device("cuda", 0), distributed=True)
    ways_of_many = {
        "ddp by NCCL": (many, LOSS_TOLERANCE["adamw"]),
        "fsdp by NCCL": (replace(many, parallel="fsdp"), LOSS_TOLERANCE["adamw"]),
    }
    found = [stays_near(plain, root / name, name, *way) for name, way in ways.items()]
    with alone_by_nccl():
        found += [stays_near(plain, root / name, name, *way) for name, way in ways_of_many.items()]
    assert all(found)


def check_dropout(root: Path) -> None:
    """The losses with dropout are the CPU's, for any micro-batch, compiled or not."""
    _, expected = trained(root / "dropout-cpu", CPU, "adamw", dropout=0.2)
    half = replace(CUDA, dtype=torch.bfloat16)
    ways = {
        "float32": (CUDA, 1024, LOSS_TOLERANCE["adamw"]),
        "twice the micro-batch": (CUDA, 2048, LOSS_TOLERANCE["adamw"]),
        "compiled": (replace(CUDA, compile=True), 1024, LOSS_TOLERANCE["adamw"]),
        "recomputed": (replace(CUDA, recompute=True), 1024, LOSS_TOLERANCE["adamw"]),
        "bfloat16, compiled": (replace(half, compile=True), 2048, HALF_TOLERANCE),
    }
    for name, (runtime, micro, tolerance) in ways.items():
        folder = root / f"dropout-{name}"
        _, losses = trained(folder, runtime, "adamw", dropout=0.2, micro_batch_tokens=micro)
        difference = largest_difference(losses, expected)
        print(f"dropout, {name}: largest difference of losses {difference:.2e}")
        assert difference < tolerance


def check_memory() -> None:
    """Ten times the GPU's memory does not fit, and what is taken instead does."""
    model = GPT(config_of("gpt2", "gpt2")).to(CUDA.device)
    total = torch.cuda.get_device_properties(0).total_memory
    far_too_many = 10 * total // (12 * 1024 * 768 * 2)  # counting one vector per token and layer
    found = find_micro_batch_size(model, [far_too_many, 1], replace(CUDA, dtype=torch.bfloat16))
    print(f"memory: {far_too_many} sequences of 1,024 do not fit, {found} does")
    assert found == 1


def check_reading(on_cpu: GPT, on_cuda: GPT) -> None:
    """The same weights give the same evaluation and text."""
    on_cuda.load_state_dict(on_cpu.state_dict())
    stream = TokenStream([(np.arange(5000) ** 2 % 1000).astype(np.uint16)])
    losses = [
        evaluate_split(model, stream, eot_token=1023, runtime=runtime).loss
        for model, runtime in ((on_cpu, CPU), (on_cuda, CUDA))
    ]
    print(f"evaluation: {losses[0]:.6f} and {losses[1]:.6f}")
    assert abs(losses[0] - losses[1]) < EVALUATION_TOLERANCE
    texts = [
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
    print(f"greedy sample: {(texts[0] == texts[1]).float().mean():.1%} of tokens equal")


def main() -> None:
    """`python -m benchmarks.cuda_check`."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        models = [check_training(root, optimizer) for optimizer in LOSS_TOLERANCE]
        check_reading(*models[-1])
        check_ways(root)
        check_dropout(root)
        check_memory()


if __name__ == "__main__":
    main()
