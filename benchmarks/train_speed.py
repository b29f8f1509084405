"""Tokens per second of training: full training steps on random tokens, medians after a warm-up.

    python -m benchmarks.train_speed --shape gpt2 --batch-tokens 491520 --peer-nanogpt ../nanoGPT

With a clone of karpathy/nanoGPT, both are measured alternately: its model and optimizer with the
operations of its loop (float32 on a CPU; bfloat16, TF32 and compiled on CUDA) on tokens already in
memory, ours as `train()` with everything it does in a run.

MFU is the model's FLOP/s as a share of the device's own matmul speed, measured in the same run and
number format: 6 N flops per token for N parameters outside of embeddings, plus 12 L C T for
attention (Chowdhery et al. 2022, appendix B).
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.side_by_side import median_of, peer_module, spread, take_turns
from nanogpt.config import GPTConfig, OptimConfig, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.flops import flops_per_token
from nanogpt.model.gpt import GPT
from nanogpt.parallel.threads import default_workers
from nanogpt.runtime import Runtime, choose_device, fastest_dtype
from nanogpt.train.events import StepDone
from nanogpt.train.loop import train
from nanogpt.train.micro_batch import peak_memory_bytes

# name: (block_size, n_layer, n_head, n_embd, vocab_size)
SHAPES = {
    "default": (128, 4, 2, 128, 2048),
    "cpu": (64, 4, 4, 128, 65),  # nanoGPT's recipe for CPUs
    "char": (256, 6, 6, 384, 65),  # nanoGPT's recipe for one GPU
    "gpt2": (1024, 12, 12, 768, 50257),
}
WARM_UP = 3


def config_of(shape: str, family: str, dropout: float = 0.0) -> GPTConfig:
    """Return the config of a model of one of the shapes."""
    block_size, n_layer, n_head, n_embd, vocab_size = SHAPES[shape]
    modern = family == "modern"
    return GPTConfig(
        vocab_size=vocab_size,
        block_size=block_size,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        dropout=dropout,
        bias=False,
        position="rotary" if modern else "learned",
        norm="rmsnorm" if modern else "layernorm",
        activation="relu2" if modern else "gelu_exact",
        qk_norm=modern,
        zero_init_proj=modern,
        tie_weights=not modern,
        logit_softcap=0.0,
    )


def train_config(optimizer: str, batch_tokens: int, steps: int) -> TrainConfig:
    """Return a config of updates alone: the one evaluation comes after the last and is small."""
    optim = OptimConfig(
        optimizer="muon" if optimizer == "muon" else "adamw",
        learning_rate=1e-3,
        muon_learning_rate=0.02,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        grad_clip=1.0,
        schedule="cosine",
        warmup_steps=1,
        decay_steps=0,
        min_lr_ratio=1.0,
    )
    return TrainConfig(
        optim=optim,
        batch_tokens=batch_tokens,
        max_steps=steps,
        eval_interval=steps,
        eval_tokens=1,
        non_finite="stop",
        seed=0,
    )


def updates(
    model: GPT, config: TrainConfig, runtime: Runtime, micro_batch_tokens: int
) -> tuple[list[float], int]:
    """Train; return the seconds of each update after the warm-up, and the peak memory in bytes."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.empty(1 << 18, dtype=torch.uint16).random_(
        model.config.vocab_size, generator=generator
    )
    stream = TokenStream([tokens.numpy()])
    with tempfile.TemporaryDirectory() as folder:
        events = train(
            model,
            stream,
            stream,
            config,
            runtime=runtime,
            folder=Path(folder),
            identity={},
            micro_batch_tokens=micro_batch_tokens,
            stop=threading.Event(),
        )
        seconds = []
        for event in events:
            if isinstance(event, StepDone):
                seconds.append(event.seconds)
                memory = peak_memory_bytes(runtime.device)
        return seconds[WARM_UP:], memory


def matmul_flops_per_second(runtime: Runtime) -> float:
    """Measure the device's FLOP/s on one large square matrix product, median of ten."""
    n = 8192 if runtime.device.type == "cuda" else 2048
    a = torch.randn(n, n, device=runtime.device, dtype=runtime.dtype)
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(2 * n**3 / median(seconds[2:]))


def peer_updates(options: argparse.Namespace, device: torch.device) -> tuple[list[float], int]:
    """Do as `updates` with nanoGPT: its model, its optimizer, the operations of its loop."""
    peer = peer_module(options.peer_nanogpt, "model")
    block_size, n_layer, n_head, n_embd, vocab_size = SHAPES[options.shape]
    torch.manual_seed(0)
    config = peer.GPTConfig(
        block_size=block_size,
        vocab_size=math.ceil(vocab_size / 64) * 64,  # as its train.py does for GPT-2
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        dropout=options.dropout,
        bias=False,
    )
    model = peer.GPT(config).to(device)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), device.type)
    context: AbstractContextManager[Any] = nullcontext()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        context = torch.autocast("cuda", dtype=torch.bfloat16)
        model = torch.compile(model)
    micro_batch_tokens = options.peer_micro_batch_tokens or options.micro_batch_tokens
    rows = max(1, min(options.batch_tokens, micro_batch_tokens) // block_size)
    accumulation = options.batch_tokens // (rows * block_size)
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(vocab_size, (rows, block_size + 1), generator=generator).to(device)
    x, y = idx[:, :-1].contiguous(), idx[:, 1:].contiguous()
    seconds = []
    for _ in range(options.steps):
        started = time.perf_counter()
        for _ in range(accumulation):
            with context:
                _, loss = model(x, y)
            (loss / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # synchronizes with the device, as its loop does for every line it logs
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:], peak_memory_bytes(device)


@contextmanager
def competing_process(busy: bool) -> Iterator[None]:
    """Keep another process computing on one core inside this context, if `busy`."""
    if not busy:
        yield
        return
    script = "import torch; torch.set_num_threads(1); a = torch.randn(256, 256)\nwhile True: a @ a"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        time.sleep(3)  # until it computes
        try:
            yield
        finally:
            process.kill()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process."""
    device = choose_device(options.device)
    runtime = Runtime(
        device=device,
        dtype=torch.float32 if options.float32 else fastest_dtype(device),
        compile=device.type == "cuda" and not options.no_compile,
        recompute=options.recompute,
    )
    if options.measure == "peer":
        seconds, memory = peer_updates(options, device)
    else:
        torch.manual_seed(0)
        model = GPT(config_of(options.shape, options.family, options.dropout)).to(device)
        config = train_config(options.optimizer, options.batch_tokens, options.steps)
        workers = default_workers(model, options.batch_tokens, runtime)
        runtime = replace(runtime, workers=workers if options.workers is None else options.workers)
        seconds, memory = updates(model, config, runtime, options.micro_batch_tokens)
    speed = options.batch_tokens / median(seconds)
    result: dict[str, Any] = {
        "tokens_per_second": round(speed),
        "peak_memory_gib": round(memory / 2**30, 3),
    }
    if options.measure == "ours":
        share = speed * flops_per_token(model) / matmul_flops_per_second(runtime)
        result["mfu_of_measured_peak"] = round(share, 3)
        result |= {"parameters": model.n_params(), "dtype": str(runtime.dtype)}
        result["workers"] = runtime.workers
    return result


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="default")
    parser.add_argument("--family", choices=("gpt2", "modern"), default="gpt2")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--busy", action="store_true", help="while another process wants a core")
    parser.add_argument("--workers", type=int, help="ours: threads that share an update")
    parser.add_argument("--float32", action="store_true", help="ours; the peer's on a CPU always")
    parser.add_argument("--no-compile", action="store_true", help="ours")
    parser.add_argument("--recompute", action="store_true", help="ours: activations computed again")
    parser.add_argument("--peer-nanogpt", type=Path, metavar="PATH", help="your clone of it")
    parser.add_argument("--peer-micro-batch-tokens", type=int, help="by default as many as ours")
    parser.add_argument("--measure", choices=("ours", "peer"), help="one measurement, here")
    return parser.parse_args()


def main() -> None:
    """Run `python -m benchmarks.train_speed`."""
    options = parse_options()
    if options.measure:
        with competing_process(options.busy):
            print(json.dumps(measure(options)))
        return
    sides = ["ours", "peer"] if options.peer_nanogpt else ["ours"]
    results = take_turns(dict.fromkeys(sides, ()), options.rounds)
    summary: dict[str, Any] = {**vars(options), "torch": torch.__version__}
    for who in sides:
        speed = median_of(results[who], "tokens_per_second")
        low, high = spread(results[who], "tokens_per_second")
        memory = median_of(results[who], "peak_memory_gib")
        print(f"{who}: {speed:,.0f} tokens/s ({low:,} to {high:,}), {memory} GiB at the most")
        summary[who] = results[who]
    if options.peer_nanogpt:
        ratio = median_of(results["ours"], "tokens_per_second") / speed
        print(f"ours is {ratio:.2f} times as fast")
        summary["times_as_fast"] = round(ratio, 2)
    else:
        print(f"MFU {median_of(results['ours'], 'mfu_of_measured_peak'):.1%} of the measured peak")
    print(json.dumps(summary, default=str))


if __name__ == "__main__":
    main()
