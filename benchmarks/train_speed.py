"""Tokens per second of training: whole updates on random tokens, medians after a warm-up.

    python -m benchmarks.train_speed --shape gpt2 --family modern --batch-tokens 491520

MFU is the share of the device's own matmul speed, measured in the same run and number format, that
the model's arithmetic amounts to: 6 N flops per token for N parameters outside of embeddings, plus
12 L C T for attention (Chowdhery et al. 2022, appendix B).
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nanogpt.data import TokenStream
from nanogpt.model import GPT, GPTConfig
from nanogpt.optim import OptimConfig
from nanogpt.runtime import Runtime, choose_device, fastest_dtype
from nanogpt.train import StepDone, TrainConfig, train

# name: (block_size, n_layer, n_head, n_embd, vocab_size)
SHAPES = {
    "default": (128, 4, 2, 128, 1024),
    "char": (256, 6, 6, 384, 65),
    "gpt2": (1024, 12, 12, 768, 50257),
}
WARM_UP = 3


def config_of(shape: str, family: str) -> GPTConfig:
    """A model of one of the shapes."""
    block_size, n_layer, n_head, n_embd, vocab_size = SHAPES[shape]
    modern = family == "modern"
    return GPTConfig(
        vocab_size=vocab_size,
        block_size=block_size,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        dropout=0.0,
        bias=False,
        position="rotary" if modern else "learned",
        norm="rmsnorm" if modern else "layernorm",
        activation="relu2" if modern else "gelu",
        qk_norm=modern,
        zero_init_proj=modern,
        tie_weights=not modern,
        logit_softcap=15.0 if modern else 0.0,
    )


def train_config(optimizer: str, batch_tokens: int, steps: int) -> TrainConfig:
    """Updates and nothing else: the one evaluation comes after the last, and is small."""
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
        seed=0,
    )


def seconds_per_step(model: GPT, config: TrainConfig, runtime: Runtime, micro: int) -> list[float]:
    """The duration of each update after the warm-up."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(model.config.vocab_size, size=1 << 22).astype(np.uint16)
    stream = TokenStream([tokens])
    with tempfile.TemporaryDirectory() as folder:
        events = train(
            model,
            stream,
            stream,
            config,
            separator=0,
            runtime=runtime,
            folder=Path(folder),
            identity={},
            micro_batch_tokens=micro,
            stop=threading.Event(),
        )
        return [event.seconds for event in events if isinstance(event, StepDone)][WARM_UP:]


def matmul_flops_per_second(runtime: Runtime) -> float:
    """What the device reaches on one large square product, median of ten."""
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


def flops_per_token(model: GPT) -> int:
    """Forward and backward arithmetic of one token."""
    c = model.config
    looked_up = model.wte.weight.numel() if not c.tie_weights else 0
    looked_up += model.wpe.weight.numel() if model.wpe is not None else 0
    return 6 * (model.n_params() - looked_up) + 12 * c.n_layer * c.n_embd * c.block_size


def main() -> None:
    """`python -m benchmarks.train_speed`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="default")
    parser.add_argument("--family", choices=("gpt2", "modern"), default="modern")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device = choose_device(options.device)
    runtime = Runtime(
        device=device,
        dtype=torch.float32 if options.float32 else fastest_dtype(device),
        compile=device.type == "cuda" and not options.no_compile,
    )
    torch.manual_seed(0)
    model = GPT(config_of(options.shape, options.family)).to(device)
    config = train_config(options.optimizer, options.batch_tokens, options.steps)
    seconds = seconds_per_step(model, config, runtime, options.micro_batch_tokens)
    speed = options.batch_tokens / median(seconds)
    spread = options.batch_tokens / max(seconds), options.batch_tokens / min(seconds)
    mfu = speed * flops_per_token(model) / matmul_flops_per_second(runtime)
    result = {
        **vars(options),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(runtime.dtype),
        "torch": torch.__version__,
        "parameters": model.n_params(),
        "tokens_per_second": round(speed),
        "slowest_and_fastest_step": [round(value) for value in spread],
        "mfu_of_measured_peak": round(mfu, 3),
    }
    if device.type == "cuda":
        result["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    for key, value in result.items():
        print(f"{key:26} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
