"""That CUDA computes what the CPU does: losses, evaluation, samples, and a resume bit for bit."""

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
LOSS_TOLERANCE = 2e-3  # float32 sums in another order, ten updates apart
EVALUATION_TOLERANCE = 1e-5


def trained(
    folder: Path, runtime: Runtime, stop_after: int | None = None
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
        train_config("muon", 2048, STEPS),
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


def main() -> None:
    """`python -m benchmarks.cuda_check`."""
    cpu = Runtime(device=torch.device("cpu"), dtype=torch.float32)
    cuda = Runtime(device=torch.device("cuda"), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        on_cpu, cpu_losses = trained(root / "cpu", cpu)
        on_cuda, cuda_losses = trained(root / "cuda", cuda)
        difference = max(abs(a - b) for a, b in zip(cpu_losses, cuda_losses, strict=True))
        print(f"losses: largest difference {difference:.2e}")
        assert difference < LOSS_TOLERANCE

        _, first = trained(root / "resumed", cuda, stop_after=4)
        resumed, rest = trained(root / "resumed", cuda)
        assert first + rest == cuda_losses
        pairs = zip(resumed.parameters(), on_cuda.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        print("resume: the same losses and weights bit for bit")

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
