"""Sampling speed, compared with nanoGPT's, with the same weights on the same machine.

    python -m benchmarks.sample_speed --shape char --batch 1 32 --peer-nanogpt ../nanoGPT

The peer is your own clone of karpathy/nanoGPT: its model and its `generate`, called as sample.py
does (temperature 0.8, top_k 200; float32 on a CPU, bfloat16 autocast on CUDA). When the context is
full, the peer's slides by one token while ours keeps its later half: each as its users get it.
Every measurement runs in a fresh process, ours and the peer's alternating, with the weights of one
seed. Both are checked to compute the same logits.

The peer recomputes its whole context for every token, which takes minutes. With --peer-pieces N it
samples 4 tokens after each of N contexts spread evenly over the run: an estimate, marked as one.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import median_of, peer_module, spread, take_turns
from benchmarks.train_speed import SHAPES, config_of
from nanogpt.config import Sampling
from nanogpt.generate.decode import generate
from nanogpt.generate.gemv import decoding_copy
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime, choose_device, fastest_dtype

TEMPERATURE, TOP_K = 0.8, 200  # of nanoGPT's sample.py
WARM_UP_TOKENS = 5
PIECE_TOKENS = 4
LOGIT_TOLERANCE = 1e-3

Sampler = Callable[[Tensor, int], Tensor]  # prompts (B, T), tokens -> (B, T + tokens)


def our_model(shape: str) -> GPT:
    """Build a model with GPT-2's architecture and the initial weights of seed 0."""
    torch.manual_seed(0)
    return GPT(config_of(shape, "gpt2")).eval()


def our_sampler(options: argparse.Namespace, device: torch.device) -> Sampler:
    """Return a sampler that uses `nanogpt.generate.decode`."""
    fast = fastest_dtype(device) if device.type == "cuda" else torch.float32
    dtype = getattr(torch, options.dtype) if options.dtype else fast
    model = decoding_copy(our_model(options.shape), Runtime(device=device, dtype=dtype))

    def run(prompts: Tensor, n_tokens: int) -> Tensor:
        steps = generate(
            model,
            list(prompts),
            n_tokens,
            sampling=Sampling(temperature=TEMPERATURE, top_k=TOP_K),
            seeds=range(len(prompts)),
            compile=options.compile,
        )
        return torch.cat((prompts, torch.stack(list(steps), dim=1).cpu()), dim=1)

    return run


def peer_model(shape: str, clone: Path) -> nn.Module:
    """Build the clone's model with our weights. Raises ValueError when their logits differ."""
    ours, theirs = our_model(shape), peer_module(clone, "model")
    sizes = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    config = theirs.GPTConfig(**{name: getattr(ours.config, name) for name in sizes})
    model: nn.Module = theirs.GPT(config).eval()
    weights = {
        name if name.startswith("lm_head") else f"transformer.{name}": weight
        for name, weight in ours.state_dict().items()
    }
    for name in ("transformer.wte.weight", "lm_head.weight"):
        weights[name] = weights[name][: config.vocab_size]  # ours has padding
    model.load_state_dict(weights)
    with torch.no_grad():
        idx = torch.arange(20)[None] % config.vocab_size
        difference = (model(idx)[0][0, -1] - ours(idx)[0, -1, : config.vocab_size]).abs().max()
    if difference > LOGIT_TOLERANCE:
        raise ValueError(f"the models differ: logits by {difference:.2e} with equal weights")
    return model


def peer_sampler(options: argparse.Namespace, device: torch.device) -> Sampler:
    """Return a sampler that works as nanoGPT's sample.py does."""
    model: Any = peer_model(options.shape, options.peer_nanogpt).to(device)  # has its generate()
    context: AbstractContextManager[Any] = nullcontext()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        fast = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        context = torch.autocast("cuda", dtype=fast)

    def run(prompts: Tensor, n_tokens: int) -> Tensor:
        settings = {"temperature": TEMPERATURE, "top_k": TOP_K}
        with torch.no_grad(), context:
            sampled: Tensor = model.generate(prompts.to(device), n_tokens, **settings)
        return sampled.cpu()

    return run


def pieces(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Return what to sample: pairs of (tokens of context, tokens to sample)."""
    n = options.peer_pieces if options.measure == "peer" else None
    if not n:
        return [(1, options.tokens)]
    return [((2 * i + 1) * options.tokens // (2 * n), PIECE_TOKENS) for i in range(n)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure milliseconds per step (one token for each row) in this process."""
    device = choose_device(options.device)
    sampler = (peer_sampler if options.measure == "peer" else our_sampler)(options, device)
    (batch,) = options.batch
    sampler(torch.zeros(batch, 1, dtype=torch.long), WARM_UP_TOKENS)
    seconds, steps = 0.0, 0
    for context, n_tokens in pieces(options):
        prompts = torch.zeros(batch, context, dtype=torch.long)
        started = time.perf_counter()
        sampled = sampler(prompts, n_tokens)
        seconds, steps = seconds + time.perf_counter() - started, steps + n_tokens
        if sampled.shape != (batch, context + n_tokens):
            raise ValueError(f"{options.measure} wrote {tuple(sampled.shape)} tokens")
    return {"ms_per_step": 1000 * seconds / steps, "threads": torch.get_num_threads()}


def compare(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Compare one batch size: medians and ranges of ours and, if there is a clone, the peer's."""
    sides = ("ours", "peer") if options.peer_nanogpt else ("ours",)
    runs = take_turns(dict.fromkeys(sides, ("--batch", str(batch))), options.repeats)
    result: dict[str, Any] = {"batch": batch, "threads": runs["ours"][0]["threads"]}
    for who, measured in runs.items():
        ms = median_of(measured, "ms_per_step")
        result[who] = {
            "ms_per_step": round(ms, 3),
            "fastest_and_slowest": [round(value, 3) for value in spread(measured, "ms_per_step")],
            "tokens_per_second": round(1000 * batch / ms, 1),
        }
    if "peer" in runs:
        times = median_of(runs["peer"], "ms_per_step") / median_of(runs["ours"], "ms_per_step")
        result["times_as_fast"] = round(times, 1)
    return result


def print_table(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print one line for each batch size and side."""
    block_size = SHAPES[options.shape][0]
    print(f"{options.shape}, {options.tokens} tokens, {results[0]['threads']} threads")
    print(f"{'batch':>5} {'who':5} {'ms/step':>9} {'fastest - slowest':>19} {'tokens/s':>9}")
    for result in results:
        for who in ("ours", "peer"):
            if who in result:
                row = result[who]
                low, high = row["fastest_and_slowest"]
                spread = f"{low:.2f} - {high:.2f}"
                print(
                    f"{result['batch']:5} {who:5} {row['ms_per_step']:9.2f} {spread:>19} "
                    f"{row['tokens_per_second']:9.1f}"
                )
        if "times_as_fast" in result:
            estimated = " (estimated from pieces)" if options.peer_pieces else ""
            print(f"      ours is {result['times_as_fast']} times as fast{estimated}")
    if options.tokens >= block_size:
        print(f"beyond the context of {block_size} the peer's slides, ours is re-read by halves")


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="char")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of ours")
    parser.add_argument("--compile", action="store_true", help="ours")
    parser.add_argument("--peer-nanogpt", type=Path, metavar="PATH")
    parser.add_argument("--peer-pieces", type=int, metavar="N", help="estimate the peer's time")
    parser.add_argument("--measure", choices=("ours", "peer"), help="one measurement, here")
    return parser.parse_args()


def main() -> None:
    """Run `python -m benchmarks.sample_speed`."""
    options = parse_options()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    results = [compare(options, batch) for batch in options.batch]
    print_table(results, options)
    about = {
        "shape": options.shape,
        "tokens": options.tokens,
        "dtype": options.dtype or "auto",
        "device": choose_device(options.device).type,
        "torch": torch.__version__,
        "peer_pieces": options.peer_pieces,
    }
    print(json.dumps({**about, "results": results}))


if __name__ == "__main__":
    main()
