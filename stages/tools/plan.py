"""Estimate the memory, time, disk and cost of a run before starting it.

`python -m stages plan [PRESET] [--hardware NAME]` does so for params.yaml or a preset. On this
machine, updates of that very model are timed for two seconds. `nanogpt/estimate.py` says what is
exact and what is not.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psutil import virtual_memory
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from stages.artifacts.model import MODEL
from stages.artifacts.shards import SHARDS, Shards
from stages.formats.dvc_lock import locked_stages
from stages.formats.presets import PRESETS
from stages.params.presets import preset_content
from stages.params.sections import check_content
from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.pool import environment_defaults, sigint_blocked
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, read_params
from stages.tokenizers.tokens import token_dtype
from stages.train.params import ModelParams, TrainParams

if TYPE_CHECKING:
    from nanogpt.config import TrainConfig
    from nanogpt.estimate import ModelSize
    from nanogpt.runtime import Runtime

Row = tuple[str, ...]
GIB = 1 << 30
HERE = "here"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The GPUs of a machine and, where a source says so, what they cost."""

    gpus: int
    kind: str
    gib: float  # of each GPU, as PyTorch reports it
    price: float | None = None  # US dollars for an hour of one GPU
    source: str = ""  # of the price


LLMC = "llm.c, 2024-05"  # karpathy's llm.c, discussion 481
NANOCHAT = "nanochat, 2026-01"  # its README
MACHINES = {
    "8xA100-40GB": Machine(gpus=8, kind="A100", gib=39.4, price=1.29, source=LLMC),
    "8xA100-80GB": Machine(gpus=8, kind="A100", gib=79.2, price=1.75, source=LLMC),
    "H100": Machine(gpus=1, kind="H100", gib=79.1, price=3.00, source=NANOCHAT),
    "8xH100": Machine(gpus=8, kind="H100", gib=79.1, price=3.00, source=NANOCHAT),
    "H200": Machine(gpus=1, kind="H200", gib=139.8),
    "8xH200": Machine(gpus=8, kind="H200", gib=139.8),
    "RTX-4090": Machine(gpus=1, kind="RTX 4090", gib=23.6),
}
THIS_MACHINE = Machine(gpus=1, kind="", gib=0)  # measured on one device
USABLE = 0.95  # of a GPU's memory; CUDA itself and fragmentation take the rest

# Of the data sheets' peak. One H100 reached 0.46 with GPT-2 124M (docs/lab-notes.md, 2026-11-28),
# eight GPUs, by their authors' times, 0.29 (nanoGPT, A100), 0.50 (nanochat, H100, 2026-01) and 0.60
# (llm.c, A100, 2024-05). More than one GPU has not been measured here.
MFU = 0.4
# A small model waits for kernel launches: 6 layers of width 384 took this long on that H100.
LEAST_UPDATE_SECONDS = 0.017

TRAIN_TOKENS = {  # by GPT-2's tokenizer: the data set's card, nanoGPT's data/openwebtext
    ("HuggingFaceFW/fineweb-edu", "sample-10BT"): 10_000_000_000,
    ("Skylion007/openwebtext", "plain_text"): 9_035_582_198,
}
UNKNOWN = "the number of epochs and a learned vocabulary's size are known once the shards exist"
N_VOCAB = {"gpt2": 50_257, "bytes": 257, "char": 100, "auto": 2048}  # the last two are guesses
TEXT_BYTES = 3.9  # of a token of GPT-2's, in prose (docs/scale.md)
DATA = ("corpus", "clean", "tokenize", "split", "shard")  # the sections that decide the shards
STATE_BYTES = 16  # per parameter: weight, gradient, AdamW's moments
CORPUS_SHARE = 0.55  # of the text's bytes, compressed (docs/scale.md)


def known_data(content: Mapping[str, Any]) -> tuple[int, int, float, float]:
    """Return the size of the vocabulary, the training tokens, all tokens, and the bytes of text.

    They come from the shards if those were made with these params, else from TRAIN_TOKENS; else
    they are 0.
    """
    made: dict[str, Any] = {}
    if (SHARDS / "manifest.json").exists():
        for stage in locked_stages(Path()).values():
            made |= stage.get("params", {}).get(str(PARAMS_FILE), {})
    if all(made.get(k) == content[k] for k in DATA):
        manifest = Shards.open(SHARDS).manifest
        train, val = manifest["splits"]["train"], manifest["splits"]["val"]
        tokens, text_bytes = (train[key] + val[key] for key in ("tokens", "bytes"))
        return manifest["n_vocab"], train["tokens"], tokens, text_bytes
    kind, size = content["tokenize"]["tokenizer"], content["tokenize"]["vocab_size"]
    hub = content["corpus"]["huggingface"] if content["corpus"]["source"] == "huggingface" else {}
    published = 0
    if kind == "gpt2" and not hub.get("max_documents"):
        published = TRAIN_TOKENS.get((hub.get("name", ""), hub.get("config", "")), 0)
    tokens = published / (1 - content["split"]["val_fraction"])
    return N_VOCAB.get(size or kind, size), published, tokens, TEXT_BYTES * tokens


def facts(size: "ModelSize", train: "TrainConfig", known: int, *, guessed: bool) -> Iterator[Row]:
    """Yield the rows that do not depend on the machine; `known` tokens are one epoch.

    `guessed` is whether the size of the vocabulary is.
    """
    tokens, flops = train.batch_tokens * train.max_steps, size.flops_per_token
    guess = " (a guess until there are shards)" if guessed else ""
    vocabulary = f"a vocabulary of {size.config.vocab_size:,} tokens{guess}"
    yield "parameters", f"{size.n_params:,}, with {vocabulary}"
    yield "", ", ".join(f"{part.strip('_')} {n:,}" for part, n in size.parts.items())
    yield "tokens", f"{tokens:,}: {train.max_steps:,} steps of {train.batch_tokens:,}"
    yield "", f"{tokens / known:.3g} epochs of {known:,}" if known else UNKNOWN
    yield "FLOPs", f"{tokens * flops:.3g}: {flops:,} per token, 6 N + 12 L C T"
    yield "", "(PaLM, appendix B; N without looked-up tables, as in Kaplan et al. 2020)"
    files = f"weights {size.weights_file:,}, optimizer {size.optimizer_file:,}"
    yield "checkpoint", f"{size.weights_file + size.optimizer_file:,} bytes: {files}"


def disk(size: "ModelSize", tokens: float, text_bytes: float) -> Iterator[Row]:
    """Yield folders, their size on disk, and what they hold."""
    from stages.artifacts.corpus import CORPUS
    from stages.artifacts.tokens import TOKENS
    from stages.train.stage import RUNS

    token_bytes = tokens * token_dtype(size.config.vocab_size)().itemsize
    model, checkpoint = size.weights_file, size.weights_file + size.optimizer_file
    places = {
        CORPUS: (CORPUS_SHARE * text_bytes, "the text, compressed"),
        TOKENS: (
            2 * token_bytes,
            "counted twice: DVC's cache holds a copy (everything else is linked)",
        ),
        SHARDS: (token_bytes, "2 bytes per token, 4 with a vocabulary beyond 65,536"),
        RUNS: (4 * checkpoint + model, "the newest two checkpoints, the best, the next"),
        MODEL: (model, "the model"),
        Path("mlartifacts"): (2 * model, "MLflow's copies of the model and the best checkpoint"),
    }
    for place, (n_bytes, what) in places.items():
        yield str(place), decimal(round(n_bytes)) if n_bytes else "?", what
    yield "total", decimal(round(sum(n for n, _ in places.values()))), "known parts only"


def gpu_runtimes(
    name: str, train: TrainParams, block_size: int, recompute: bool
) -> "list[Runtime]":
    """Return the ways to train on a machine: ddp and, where possible, fsdp.

    The number of GPUs must divide the windows of an update.
    """
    import torch

    from nanogpt.runtime import Runtime
    from stages.runtime.torchrun import largest_divisor
    from stages.train.precision import DTYPES

    config, dtype = train.config(), DTYPES[train.precision]
    gpus = largest_divisor(config.batch_tokens // block_size, MACHINES[name].gpus)
    ddp = Runtime(
        device=torch.device("cuda"),
        dtype=dtype or torch.bfloat16,
        world_size=gpus,
        distributed=gpus > 1,
        recompute=recompute,
    )
    shardable = gpus > 1 and config.optim.optimizer == "adamw"  # muon needs full matrices
    return [ddp, replace(ddp, parallel="fsdp")] if shardable else [ddp]


def memory_row(
    size: "ModelSize", batch_tokens: int, most: int | None, name: str, runtime: "Runtime"
) -> Row:
    """Return GiB per GPU by purpose, for the largest micro-batch that fits or the smallest."""
    from nanogpt.estimate import fitted_memory

    capacity = MACHINES[name].gib
    rows, memory = fitted_memory(size, batch_tokens, runtime, most, USABLE * capacity * GIB)
    gib = [n_bytes / GIB for n_bytes in (*memory.values(), sum(memory.values()))]
    limit = f"{'over ' if gib[-1] > USABLE * capacity else ''}{capacity}"
    return name, runtime.parallel, f"{rows}", *(f"{x:.2f}" for x in gib), limit


def gpu_speed(
    size: "ModelSize", batch_tokens: int, name: str, runtime: "Runtime", mfu: float
) -> tuple[float, float]:
    """Return the seconds per update and per token; NaN if the GPU's peak is unknown."""
    from nanogpt.flops import peak_flops

    peak = peak_flops(MACHINES[name].kind, runtime.dtype) or math.nan
    token = size.flops_per_token / (runtime.world_size * peak * mfu)
    return max(batch_tokens * token, LEAST_UPDATE_SECONDS), token


def measured(size: "ModelSize", train: TrainParams, settings: Settings) -> tuple[float, float]:
    """Return the seconds per update and per token on this machine; NaN if memory is too small."""
    from torch import OutOfMemoryError

    from nanogpt.estimate import measure_updates
    from nanogpt.runtime import Runtime, choose_device, fastest_dtype
    from stages.train.precision import DTYPES

    device, compile = choose_device(settings.device), settings.compile
    runtime = Runtime(
        device=device,
        dtype=DTYPES[train.precision] or fastest_dtype(device),
        compile=device.type == "cuda" if compile is None else compile,
        recompute=settings.recompute,
    )
    if device.type == "cpu" and STATE_BYTES * size.n_params > virtual_memory().available:
        return math.nan, math.nan
    config, most = train.config(), settings.micro_batch_tokens
    arguments = size.config, config.optim, config.batch_tokens, runtime, most
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        # the environment in which a training run starts its workers
        with environment_defaults(KEEP_FREED_MEMORY), sigint_blocked():
            speed = process.submit(measure_updates, *arguments)
        try:
            return speed.result()
        except OutOfMemoryError:  # of a GPU, which says so only then
            return math.nan, math.nan


def time_row(name: str, train: TrainParams, speed: tuple[float, float], price: float | None) -> Row:
    """Return the time of a training run on a machine, evaluations included, its speed and cost."""
    update, token = speed
    config = train.config()
    evaluated = math.ceil(config.max_steps / config.eval_interval) * config.eval_tokens
    seconds = config.max_steps * update + evaluated * token / 3  # no backward pass: a third
    if math.isnan(seconds):
        return name, "too large" if name == HERE else f"peak FLOPS unknown for {train.precision}"
    units = {"days": 86_400, "h": 3600, "min": 60}
    unit = next((unit for unit, size in units.items() if seconds >= 2 * size), "s")
    tokens = config.batch_tokens * config.max_steps
    row = (
        name,
        f"{seconds / units.get(unit, 1):.3g} {unit}",
        f"{update:.3g}",
        f"{tokens / seconds:,.0f}",
    )
    machine, source = MACHINES.get(name, THIS_MACHINE), "--price"
    if price is None:
        price, source = machine.price, machine.source
    if price is None:
        return row
    cost = seconds / 3600 * machine.gpus * price
    return *row, f"${cost:,.2f}", f"${price:.2f} per GPU hour ({source})"


def show(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table and an empty line."""
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=98).print(table, "", sep="\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    presets = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    machines, add = [*MACHINES, HERE], parser.add_argument
    default = f"one of {', '.join(presets)}; default: {PARAMS_FILE}"
    add("preset", metavar="PRESET", nargs="?", choices=presets, help=default)
    add("--hardware", metavar="NAME", choices=machines, help=", ".join(machines))
    add("--mfu", type=float, default=MFU, help=f"fraction of the GPU's peak FLOPS (default: {MFU})")
    add("--price", type=float, help="US dollars per hour of one GPU")


def show_machines(
    size: "ModelSize", train: TrainParams, settings: Settings, options: argparse.Namespace
) -> None:
    """Show the memory, time and cost of a training run on the machine asked for, or on each."""
    batch_tokens, most = train.config().batch_tokens, settings.micro_batch_tokens
    memories, speeds = [], {}
    for name in [options.hardware] if options.hardware else [*MACHINES, HERE]:
        if name == HERE:
            speeds[name] = measured(size, train, settings)
            continue
        runtimes = gpu_runtimes(name, train, size.config.block_size, settings.recompute)
        memories += [memory_row(size, batch_tokens, most, name, one) for one in runtimes]
        speeds[name] = gpu_speed(size, batch_tokens, name, runtimes[0], options.mfu)
    purposes = ["weights", "grads", "optim", "copies", "acts", "logits", "total", "limit"]
    if memories:
        show(["GiB per GPU", "", "micro-batch", *purposes], memories)
    show(
        ["training", "time", "s per update", "tokens/s", "cost", ""],
        (time_row(name, train, speed, options.price) for name, speed in speeds.items()),
    )
    print(f"GPU times assume an MFU of {options.mfu:g}; `{HERE}` is measured, on one device")


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError if a number on the command line is out of its range."""
    if not 0 < options.mfu <= 1:
        raise ValueError(f"--mfu {options.mfu} must be in (0, 1], e.g. {MFU}")
    if options.price is not None and options.price < 0:
        raise ValueError(f"--price {options.price} must not be negative")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages plan [PRESET] [--hardware NAME]`."""
    check_options(options)
    file = PRESETS / f"{options.preset}.yaml" if options.preset else PARAMS_FILE
    content = preset_content(file) if options.preset else read_params(file)
    sections = check_content(content, file)
    model, train = sections["model"], sections["train"]
    assert isinstance(model, ModelParams)
    assert isinstance(train, TrainParams)
    from nanogpt.estimate import model_size  # torch takes seconds

    n_vocab, train_tokens, tokens, text_bytes = known_data(content)
    config = train.config()
    size = model_size(model.config(n_vocab), config.optim)
    tokenize = content["tokenize"]
    learned = tokenize["tokenizer"] == "char" or tokenize["vocab_size"] == "auto"
    guessed = learned and not train_tokens
    show(["plan", str(file)], facts(size, config, train_tokens, guessed=guessed))
    show(["disk", "bytes", ""], disk(size, tokens, text_bytes))
    show_machines(size, train, settings, options)
