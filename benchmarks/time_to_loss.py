"""Training time until the validation loss is as low as nanoGPT's own recipe reaches in the end.

    python -m benchmarks.time_to_loss --text shakespeare.txt --peer-nanogpt ../nanoGPT

The peer's train.py trains by its README's command for a CPU (or by its configuration for one GPU)
on the characters of the first nine tenths of the text. Ours trains by two recipes that are fixed
here: a short one, meant to get as far in a fraction of the time, and a long one. Both are measured
on all of the last tenth, in float32, each with its own context length. Time excludes the first
update, which compiles on a GPU: for ours it is that of all other updates, for the peer that until
the checkpoint it keeps (the last on a CPU; on a GPU, where it overfits, the best by its estimates).
The recipes were tuned on another part of the texts; but the short ones were made longer after they
once fell short here (docs/lab-notes.md).
"""

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.side_by_side import median_of, take_turns
from benchmarks.train_speed import config_of
from nanogpt.config import OptimConfig, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.parallel.threads import default_workers
from nanogpt.runtime import Runtime, choose_device, fastest_dtype
from nanogpt.train.events import StepDone
from nanogpt.train.loop import train
from nanogpt.train.validation import evaluate_split

# The command of nanoGPT's README for a CPU, evaluated at the end; for a GPU its configuration file,
# except the 200 batches of each evaluation, which take as long as the training: 20 are three times
# the validation split of tiny Shakespeare.
PEER = {
    "cpu": "--device=cpu --compile=False --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
    "--n_embd=128 --lr_decay_iters=2000 --dropout=0.0 --log_interval=1 --max_iters=2000 "
    "--eval_iters=1 --eval_interval=2000 --always_save_checkpoint=True",
    "gpu": "--eval_iters=20",
}
PEER_STEPS = {"cpu": 2000, "gpu": 5000}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The model and the hyperparameters of one training run of ours."""

    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    batch_tokens: int
    steps: int
    learning_rate: float
    muon_learning_rate: float
    weight_decay: float
    logit_softcap: float = 15.0
    ngram_table: int = 0
    ngram_order: int = 2


OURS = {
    ("cpu", "short"): Recipe(
        block_size=64, n_layer=2, n_head=2, n_embd=128, dropout=0.0,
        batch_tokens=2048, steps=52, learning_rate=0.02,
        muon_learning_rate=0.02, weight_decay=0.0,
        logit_softcap=0.0, ngram_table=4096, ngram_order=4,
    ),
    ("cpu", "long"): Recipe(
        block_size=128, n_layer=4, n_head=2, n_embd=128, dropout=0.0,
        batch_tokens=2048, steps=600, learning_rate=0.02,
        muon_learning_rate=0.02, weight_decay=0.0,
        logit_softcap=0.0, ngram_table=8192, ngram_order=4,
    ),
    ("gpu", "short"): Recipe(
        block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.1,
        batch_tokens=16384, steps=350, learning_rate=0.002,
        muon_learning_rate=0.01, weight_decay=0.4,
    ),
    ("gpu", "long"): Recipe(
        block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.25,
        batch_tokens=16384, steps=1200, learning_rate=0.002,
        muon_learning_rate=0.01, weight_decay=0.4,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """The characters of a text as tokens, in two splits."""

    characters: list[str]
    train: NDArray[np.uint16]
    val: NDArray[np.uint16]

    @classmethod
    def read(cls, file: Path) -> "Text":
        """Read a file and split it as nanoGPT's prepare.py does: nine tenths to train on."""
        text = file.read_text(encoding="utf-8")
        cut = int(len(text) * 0.9)
        return cls.of(text[:cut], text[cut:])

    @classmethod
    def of(cls, train: str, val: str) -> "Text":
        """Tokenize both splits with a vocabulary of their characters."""
        characters = sorted(set(train + val))
        stoi = {character: i for i, character in enumerate(characters)}
        train_tokens, val_tokens = (
            np.array([stoi[character] for character in split], dtype=np.uint16)
            for split in (train, val)
        )
        return cls(characters, train_tokens, val_tokens)


def val_loss(model: GPT, text: Text, device: torch.device) -> float:
    """Return the loss in nats per character over all of the last tenth, in float32."""
    runtime = Runtime(device=device, dtype=torch.float32)
    return evaluate_split(model, TokenStream([text.val]), runtime=runtime).loss


def peer(options: argparse.Namespace, text: Text) -> dict[str, float]:
    """Train with the peer's own train.py in a copy of the clone; return its times and loss."""
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "nanoGPT"
        shutil.copytree(options.peer_nanogpt, clone, ignore=shutil.ignore_patterns(".git"))
        data = clone / "data" / "text"
        data.mkdir()
        text.train.tofile(data / "train.bin")
        text.val.tofile(data / "val.bin")
        meta = {"vocab_size": len(text.characters)}
        (data / "meta.pkl").write_bytes(pickle.dumps(meta))
        command = [sys.executable, "train.py", "config/train_shakespeare_char.py"]
        command += [*PEER[options.recipe].split(), "--dataset=text", f"--out_dir={name}/out"]
        lines = output_lines(command, clone)
        state = torch.load(f"{name}/out/ckpt.pt", weights_only=True, map_location="cpu")
    step_seconds = seconds_per_step(lines)
    return {
        "seconds": state["iter_num"] * step_seconds,
        "whole_recipe_seconds": PEER_STEPS[options.recipe] * step_seconds,
        "loss": peer_loss(state, text, options),
    }


def output_lines(command: list[str], folder: Path) -> list[tuple[float, str]]:
    """Run a program; return each line that it prints with the time at which it came."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter(), line))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return lines


def seconds_per_step(lines: list[tuple[float, str]]) -> float:
    """Return the median time per step between lines of the peer's log without an evaluation."""
    steps = [re.match(r"iter (\d+):", line) for _, line in lines]
    return median(
        (lines[i + 1][0] - lines[i][0]) / (int(after[1]) - int(before[1]))
        for i, (before, after) in enumerate(pairwise(steps))
        if before and after
    )


def peer_loss(state: dict[str, Any], text: Text, options: argparse.Namespace) -> float:
    """Return the `val_loss` of the peer's weights, in our model, which computes the same."""
    sizes = {k: v for k, v in state["model_args"].items() if k != "vocab_size"}
    config = replace(config_of("cpu", "gpt2"), **sizes, vocab_size=len(text.characters))
    model = GPT(config)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in state["model"].items():
            name = name.removeprefix("_orig_mod.").removeprefix("transformer.")
            if name in own:
                own[name][: len(weight)] = weight
    device = choose_device(options.device)
    return val_loss(model.to(device), text, device)


def ours(options: argparse.Namespace, text: Text) -> dict[str, float]:
    """Train by one of our recipes; return its time and loss."""
    recipe = OURS[options.recipe, options.length]
    device = choose_device(options.device)
    runtime = Runtime(device=device, dtype=fastest_dtype(device), compile=device.type == "cuda")
    torch.manual_seed(options.seed)
    config = replace(
        config_of("cpu", "modern"),
        norm="layernorm",  # its weights help small models a lot (docs/lab-notes.md)
        vocab_size=len(text.characters),
        block_size=recipe.block_size,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        n_embd=recipe.n_embd,
        dropout=recipe.dropout,
        logit_softcap=recipe.logit_softcap,
        ngram_table=recipe.ngram_table,
        ngram_order=recipe.ngram_order,
    )
    model = GPT(config).to(device)
    runtime = replace(runtime, workers=default_workers(model, recipe.batch_tokens, runtime))
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for event in train(
            model,
            TokenStream([text.train]),
            TokenStream([text.val]),
            train_config(recipe, options.seed),
            runtime=runtime,
            folder=Path(folder),
            identity={},
            micro_batch_tokens=1 << 16,
            stop=threading.Event(),
        ):
            if isinstance(event, StepDone) and event.step > 1:
                seconds += event.seconds
    return {"seconds": seconds, "loss": val_loss(model, text, device)}


def train_config(recipe: Recipe, seed: int) -> TrainConfig:
    """Return a recipe's config: linear warm-up, plateau, linear decay over the last four fifths."""
    optim = OptimConfig(
        optimizer="muon",
        learning_rate=recipe.learning_rate,
        muon_learning_rate=recipe.muon_learning_rate,
        weight_decay=recipe.weight_decay,
        beta1=0.9,
        beta2=0.95,
        grad_clip=0.0,
        schedule="warmup_stable_decay",
        warmup_steps=10,
        decay_steps=recipe.steps * 4 // 5,
        min_lr_ratio=0.0,
    )
    return TrainConfig(
        optim=optim,
        batch_tokens=recipe.batch_tokens,
        max_steps=recipe.steps,
        eval_interval=recipe.steps,
        eval_tokens=1,
        non_finite="stop",
        seed=seed,
    )


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--recipe", choices=PEER, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of ours")
    lengths = ("short", "long")
    parser.add_argument("--lengths", choices=lengths, nargs="+", default=lengths, help="of ours")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peer-nanogpt", type=Path, metavar="PATH", help="your clone of it")
    parser.add_argument("--peer-rounds", type=int, default=3, help="at most one for each seed")
    parser.add_argument("--measure", choices=("ours", "peer"), help="one training run, here")
    parser.add_argument("--length", choices=lengths, help="of ours, with --measure")
    parser.add_argument("--seed", type=int, default=1, help="of ours, with --measure")
    return parser.parse_args()


def main() -> None:
    """Run `python -m benchmarks.time_to_loss`."""
    options = parse_options()
    if options.measure:
        run = peer if options.measure == "peer" else ours
        print(json.dumps(run(options, Text.read(options.text))))
        return
    rows: dict[str, list[dict[str, Any]]] = {"nanoGPT": [], "short": [], "long": []}
    for i, seed in enumerate(options.seeds):  # in turn; the peer's seed is fixed
        if options.peer_nanogpt and i < options.peer_rounds:
            rows["nanoGPT"] += take_turns({"peer": ()}, 1)["peer"]
        for length in options.lengths:
            chosen = ("--length", length, "--seed", str(seed))
            rows[length] += take_turns({"ours": chosen}, 1)["ours"]
    print("| | seconds, median | validation loss of each | mean |")
    print("|---|---|---|---|")
    for who, results in rows.items():
        if results:
            losses = [round(result["loss"], 4) for result in results]
            mean = sum(losses) / len(losses)
            print(f"| {who} | {median_of(results, 'seconds'):.1f} | {losses} | {mean:.4f} |")
    print(json.dumps({**vars(options), "torch": torch.__version__, **rows}, default=str))


if __name__ == "__main__":
    main()
