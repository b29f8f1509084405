"""That CUDA computes what the CPU does: losses, evaluation, samples, and a resume bit for bit.

In float32 and uncompiled, where sums are made in the same order every time.
"""

import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

from benchmarks.train_speed import config_of, train_config
from nanogpt.data import TokenStream
from nanogpt.decoding import decoding_copy
from nanogpt.evaluate import evaluate_split
from nanogpt.generate import Sampling, generate
from nanogpt.model import GPT
from nanogpt.runtime import Runtime
from nanogpt.train import Ended, StepDone, train

STEPS = 10
# Of losses ten updates apart. Muon multiplies in bfloat16, so another order of sums tells: by up to
# 1.9e-3 on a CPU.
LOSS_TOLERANCE = {"adamw": 1e-4, "muon": 1e-2}
EVALUATION_TOLERANCE = 1e-5


def trained(
    folder: Path, runtime: Runtime, optimizer: str, stop_after: int | None = None
) -> tuple[GPT, list[float]]:
    """A small model trained on a repeating pattern, and its losses."""
    torch.manual_seed(0)
    model = GPT(config_of("default", "modern")).to(runtime.device)
    stream = TokenStream([(np.arange(1 << 16) ** 2 % 1000).astype(np.uint16)])
    stop, losses = threading.Event(), []
    events = train(
        model,
        stream,
        stream,
        train_config(optimizer, 2048, STEPS),
        separator=1023,
        runtime=runtime,
        folder=folder,
        identity={},
        micro_batch_tokens=1024,
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


def check_training(optimizer: str, cpu: Runtime, cuda: Runtime) -> tuple[GPT, GPT]:
    """The model as each device trained it, nearly equal, and equal to one that was interrupted."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        on_cpu, cpu_losses = trained(root / "cpu", cpu, optimizer)
        on_cuda, cuda_losses = trained(root / "cuda", cuda, optimizer)
        difference = max(abs(a - b) for a, b in zip(cpu_losses, cuda_losses, strict=True))
        print(f"{optimizer}: largest difference of losses {difference:.2e}")
        assert difference < LOSS_TOLERANCE[optimizer]

        _, first = trained(root / "resumed", cuda, optimizer, stop_after=4)
        resumed, rest = trained(root / "resumed", cuda, optimizer)
        assert first + rest == cuda_losses
        pairs = zip(resumed.parameters(), on_cuda.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        print(f"{optimizer}: resumed, the same losses and weights bit for bit")
    return on_cpu, on_cuda


def main() -> None:
    """`python -m benchmarks.cuda_check`."""
    cpu = Runtime(device=torch.device("cpu"), dtype=torch.float32)
    cuda = Runtime(device=torch.device("cuda"), dtype=torch.float32)
    for optimizer in LOSS_TOLERANCE:
        on_cpu, on_cuda = check_training(optimizer, cpu, cuda)
    on_cuda.load_state_dict(on_cpu.state_dict())
    stream = TokenStream([(np.arange(5000) ** 2 % 1000).astype(np.uint16)])
    losses = [
        evaluate_split(model, stream, separator=1023, runtime=runtime).loss
        for model, runtime in ((on_cpu, cpu), (on_cuda, cuda))
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
        for model, runtime in ((on_cpu, cpu), (on_cuda, cuda))
    ]
    print(f"greedy sample: {(texts[0] == texts[1]).float().mean():.1%} of tokens equal")


if __name__ == "__main__":
    main()
