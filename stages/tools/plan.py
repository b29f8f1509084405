"""What a run will take, before anything runs: `python -m stages plan [PRESET] [--hardware NAME]`.

For params.yaml or a preset: parameters, tokens, FLOPs, memory per GPU, disk, time and cost. On this
machine, updates of that very model are timed for two seconds. `nanogpt/estimate.py` says what is
exact and what is not.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from stages.artifacts.shards import Shards
from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.pool import in_environment
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, read_params
from stages.tokenizers.ids import token_dtype
from stages.tools.check import check_content
from stages.tools.preset import PRESETS
from stages.train.params import ModelParams, TrainParams

if TYPE_CHECKING:
    from nanogpt.estimate import ModelSize
    from nanogpt.runtime import Runtime

Row = tuple[str, ...]
GIB = 1 << 30
SHARDS, LOCK, HERE = Path("data/shards"), Path("dvc.lock"), "here"

# GPUs, their kind, GiB of each as PyTorch reports it, and US dollars for an hour of each where a
# source says so: karpathy's llm.c, discussion 481, and nanochat's README.
MACHINES: dict[str, tuple[int, str, float, float | None, str]] = {
    "8xA100-40GB": (8, "A100", 39.4, 1.29, "llm.c, 2024-05"),
    "8xA100-80GB": (8, "A100", 79.2, 1.75, "llm.c, 2024-05"),
    "H100": (1, "H100", 79.1, 3.00, "nanochat, 2026-01"),
    "8xH100": (8, "H100", 79.1, 3.00, "nanochat, 2026-01"),
    "H200": (1, "H200", 139.8, None, ""),
    "8xH200": (8, "H200", 139.8, None, ""),
    "RTX-4090": (1, "RTX 4090", 23.6, None, ""),
}
USABLE = 0.95  # of a GPU's memory; CUDA itself and fragments take the rest

# Of the data sheets' peak. One H100 reached 0.46 with GPT-2 124M (docs/lab-notes.md, 2026-11-28),
# eight GPUs, by their authors' times, 0.29 (nanoGPT, A100), 0.50 (nanochat, H100, 2026-01) and 0.60
# (llm.c, A100, 2024-05). More than one GPU has not been measured here.
MFU = 0.4
# A small model waits for its kernels to be started: what 6 layers of 384 took on that H100.
LEAST_UPDATE_SECONDS = 0.017

TRAIN_TOKENS = {  # by GPT-2's tokenizer: the data set's card, nanoGPT's data/openwebtext
    ("HuggingFaceFW/fineweb-edu", "sample-10BT"): 10_000_000_000,
    ("Skylion007/openwebtext", "plain_text"): 9_035_582_198,
}
N_VOCAB = {"gpt2": 50_257, "bytes": 257, "char": 100, "auto": 2048}  # the last two are guesses
TEXT_BYTES = 3.9  # of a token of GPT-2's, in prose (docs/scale.md)
CORPUS_SHARE = 0.55  # of the text's bytes, compressed (docs/scale.md)


def known_data(content: Mapping[str, Any]) -> tuple[int, int, float, float]:
    """Return the size of the vocabulary, the tokens to train on, all tokens, and bytes of text.

    As the shards say, if they were made with these params, else as published, else 0.
    """
    made: dict[str, Any] = {}
    if LOCK.exists() and (SHARDS / "manifest.json").exists():
        for stage in read_params(LOCK)["stages"].values():
            made |= stage.get("params", {}).get(str(PARAMS_FILE), {})
    if all(made.get(k) == content[k] for k in ("corpus", "clean", "tokenize", "split", "shard")):
        manifest = Shards.open(SHARDS).manifest
        train, val = manifest["splits"]["train"], manifest["splits"]["val"]
        tokens, text_bytes = (train[key] + val[key] for key in ("tokens", "bytes"))
        return manifest["n_vocab"], train["tokens"], tokens, text_bytes
    kind, size = content["tokenize"]["tokenizer"], content["tokenize"]["vocab_size"]
    hub = content["corpus"]["huggingface"] if content["corpus"]["source"] == "huggingface" else {}
    published = 0
    if kind == "gpt2" and not hub.get("max_documents"):
        published = TRAIN_TOKENS.get((hub.get("name"), hub.get("config")), 0)
    tokens = published / (1 - content["split"]["val_fraction"])
    return N_VOCAB.get(size or kind, size), published, tokens, TEXT_BYTES * tokens


def facts(size: "ModelSize", train: TrainParams, known: int) -> Iterator[Row]:
    """Yield what does not depend on the machine."""
    tokens, flops = train.batch_tokens * train.max_steps, size.flops_per_token
    yield "parameters", f"{size.n_params:,}, of a vocabulary of {size.config.vocab_size:,} tokens"
    yield "", ", ".join(f"{part.strip('_')} {n:,}" for part, n in size.parts.items())
    yield "tokens", f"{tokens:,}: {train.max_steps:,} updates of {train.batch_tokens:,}"
    yield "", f"{tokens / known:.3g} epochs of {known:,}" if known else "epochs: not known yet"
    yield "FLOPs", f"{tokens * flops:.3g}: {flops:,} per token, 6 N + 12 L C T"
    yield "", "(PaLM, appendix B; N without looked-up tables, as in Kaplan et al. 2020)"
    files = f"weights {size.weights_file:,}, optimizer {size.optimizer_file:,}"
    yield "checkpoint", f"{size.weights_file + size.optimizer_file:,} bytes: {files}"


def disk(size: "ModelSize", tokens: float, text_bytes: float) -> Iterator[Row]:
    """Yield places on the disk, their bytes, and what is there."""
    token_bytes = tokens * token_dtype(size.config.vocab_size)().itemsize
    model, checkpoint = size.weights_file, size.weights_file + size.optimizer_file
    places = {
        "data/corpus": (CORPUS_SHARE * text_bytes, "the text, compressed"),
        "data/tokens": (2 * token_bytes, "and again in DVC's cache, which links to all else"),
        "data/shards": (token_bytes, "2 bytes per token, 4 with a vocabulary beyond 65,536"),
        "runs": (4 * checkpoint + model, "the newest two checkpoints, the best, the next"),
        "models/gpt": (model, "the model"),
        "mlartifacts": (2 * model, "MLflow's copies of the model and the best checkpoint"),
    }
    for place, (n_bytes, what) in places.items():
        yield place, decimal(round(n_bytes)) if n_bytes else "?", what
    yield "together", decimal(round(sum(n for n, _ in places.values()))), "as far as known"


def runtime_on(name: str, train: TrainParams, settings: Settings, windows: int) -> "Runtime":
    """Return how one process trains on a machine: an update's windows must divide by its GPUs."""
    import torch

    from nanogpt.runtime import Runtime, choose_device, fastest_dtype
    from stages.runtime.torchrun import largest_divisor
    from stages.train.worker import DTYPES

    here, dtype = name == HERE, DTYPES[train.precision]
    device = choose_device(settings.device) if here else torch.device("cuda")
    gpus = 1 if here else largest_divisor(windows, MACHINES[name][0])
    return Runtime(
        device=device,
        dtype=dtype or (fastest_dtype(device) if here else torch.bfloat16),
        compile=device.type == "cuda" if settings.compile is None else settings.compile,
        world_size=gpus,
        distributed=gpus > 1,
        recompute=settings.recompute,
    )


def memory(
    size: "ModelSize", train: TrainParams, settings: Settings, name: str, runtime: "Runtime"
) -> Iterator[Row]:
    """Yield GiB on each GPU by purpose, of the largest micro-batch that fits, else the smallest."""
    from nanogpt.estimate import fitted_memory

    most, micro_tokens = MACHINES[name][2], settings.micro_batch_tokens
    runtimes = {"ddp": runtime}
    if runtime.distributed and train.optimizer == "adamw":  # muon needs whole matrices
        runtimes["fsdp"] = replace(runtime, parallel="fsdp")
    for parallel, one in runtimes.items():
        rows, found = fitted_memory(
            size, train.batch_tokens, one, micro_tokens, USABLE * most * GIB
        )
        gib = [n_bytes / GIB for n_bytes in (*found.values(), sum(found.values()))]
        over = "over " if gib[-1] > USABLE * most else ""
        yield name, parallel, f"{rows}", *(f"{x:.2f}" for x in gib), f"{over}{most}"


def speed(
    size: "ModelSize",
    train: TrainParams,
    settings: Settings,
    name: str,
    runtime: "Runtime",
    mfu: float,
) -> tuple[float, float]:
    """Return the seconds of an update, and of a token's forward and backward pass.

    Raises ValueError where no peak of the GPUs is known.
    """
    from nanogpt.estimate import measure_updates
    from nanogpt.flops import peak_flops
    from stages.train.worker import train_config

    if name == HERE:
        optim, most = train_config(train).optim, settings.micro_batch_tokens
        with (
            in_environment(KEEP_FREED_MEMORY),  # as the processes of a training are started
            ProcessPoolExecutor(1, get_context("spawn")) as process,
        ):
            return process.submit(
                measure_updates, size.config, optim, train.batch_tokens, runtime, most
            ).result()
    peak = peak_flops(MACHINES[name][1], runtime.dtype)
    if peak is None:
        raise ValueError(f"no peak is known in {train.precision}; plan --hardware {HERE} measures")
    token = size.flops_per_token / (runtime.world_size * peak * mfu)
    return max(train.batch_tokens * token, LEAST_UPDATE_SECONDS), token


def time_row(
    train: TrainParams, name: str, update: float, token: float, price: float | None
) -> Row:
    """Return how long a machine trains, evaluations included, how fast, and at which cost."""
    evaluated = math.ceil(train.max_steps / train.eval_interval) * train.eval_tokens
    seconds = (
        train.max_steps * update + evaluated * token / 3
    )  # of both passes one third is forward
    units = {"days": 86_400, "h": 3600, "min": 60}
    unit = next((unit for unit, size in units.items() if seconds >= 2 * size), "s")
    tokens = train.batch_tokens * train.max_steps
    gpus, _, _, listed, source = MACHINES.get(name, (1, "", 0, None, ""))
    hour, source = (listed, source) if price is None else (price, "--price")
    cost = (
        ("", "")
        if hour is None
        else (f"${seconds / 3600 * gpus * hour:,.2f}", f"${hour:.2f} per GPU hour ({source})")
    )
    return (
        name,
        f"{seconds / units.get(unit, 1):.3g} {unit}",
        f"{update:.3g}",
        f"{tokens / seconds:,.0f}",
        *cost,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    presets = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    parser.add_argument("preset", nargs="?", choices=presets, help=f"by default {PARAMS_FILE}")
    parser.add_argument("--hardware", choices=[*MACHINES, HERE], help="by default all of these")
    parser.add_argument("--mfu", type=float, default=MFU, help=f"share of a GPU's peak ({MFU})")
    parser.add_argument("--price", type=float, help="US dollars for an hour of one GPU")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages plan [PRESET] [--hardware NAME]`."""
    from nanogpt.estimate import model_size  # torch takes seconds
    from nanogpt.model.gpt import GPTConfig
    from stages.train.worker import train_config

    if not 0 < options.mfu <= 1:
        raise ValueError(f"--mfu {options.mfu} is not a share, such as {MFU}")
    file = PRESETS / f"{options.preset}.yaml" if options.preset else PARAMS_FILE
    content = read_params(file)
    sections = check_content(content, file)
    model, train = sections["model"], sections["train"]
    assert isinstance(model, ModelParams)
    assert isinstance(train, TrainParams)
    n_vocab, train_tokens, tokens, text_bytes = known_data(content)
    config = GPTConfig(vocab_size=n_vocab, **model.model_dump())
    size = model_size(config, train_config(train).optim)
    show([f"{file}", ""], facts(size, train, train_tokens))
    show(["disk", "bytes", ""], disk(size, tokens, text_bytes))
    names = [options.hardware] if options.hardware else [*MACHINES, HERE]
    runtimes = {
        n: runtime_on(n, train, settings, train.batch_tokens // model.block_size) for n in names
    }
    purposes = ["weights", "grads", "optim", "copies", "acts", "logits", "total", "of GiB"]
    shown = (
        row for n, r in runtimes.items() if n != HERE for row in memory(size, train, settings, n, r)
    )
    show(["memory per GPU", "", "rows", *purposes], shown)
    speeds = {n: speed(size, train, settings, n, r, options.mfu) for n, r in runtimes.items()}
    rows = (time_row(train, n, *both, options.price) for n, both in speeds.items())
    show(["training", "time", "s per update", "tokens/s", "cost", ""], rows)
    print(f"time of GPUs: by an MFU of {options.mfu:g}; {HERE}: measured")


def show(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table and an empty line."""
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=98).print(table, "", sep="\n")
