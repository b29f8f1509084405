"""How fast training data is read: tokens from files to int64 batches, compared with nanoGPT's.

    python -m benchmarks.loader_speed --files 90 --peer-nanogpt ../nanoGPT

Bytes are those of the files: two per token, each token counted once. A core's second is one second
of the process's CPU time: the work of the prefetching thread counts, waiting does not. The files
are in the page cache, as the disk is not what is measured. Readers alternate for several rounds,
each in a fresh process; ours has the memory settings that the stage `train` gives its processes.
nanoGPT's train.py trains when it is imported, so only its get_batch is taken out of the file.
"""

import argparse
import ast
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.side_by_side import median_of, spread, take_turns
from nanogpt.data.loader import micro_batches
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.runtime import Runtime

VOCAB_SIZE = 50257
SHAPES = ((12, 64), (16, 128), (64, 256), (12, 1024), (64, 1024))  # (B, T) of a batch
RUNTIME = Runtime(device=torch.device("cpu"), dtype=torch.float32)

Read = Callable[[int], None]


def write_files(folder: Path, n_tokens: int, count: int) -> None:
    """Write random tokens to `count` files of ours, and all of them to nanoGPT's `train.bin`."""
    draw = np.random.default_rng(0)
    with (folder / "train.bin").open("wb") as train_bin:
        for number in range(count):
            tokens = draw.integers(VOCAB_SIZE, size=n_tokens // count).astype(np.uint16)
            np.save(folder / f"{number:05d}.npy", tokens)
            tokens.tofile(train_bin)


def ours(stream: TokenStream, batch: int, block_size: int) -> Read:
    """Return a function that reads batches as training does, from where its last call ended."""
    order = WindowOrder(n_tokens=len(stream), block_size=block_size, seed=0)
    done = 0

    def read(count: int) -> None:
        nonlocal done
        indices = range(done, done + count)
        done += count
        for _ in micro_batches(
            stream,
            order,
            indices=indices,
            micro_batch=batch,
            vocab_size=VOCAB_SIZE,
            runtime=RUNTIME,
        ):
            pass

    return read


def nanogpt(clone: Path, data: Path, batch: int, block_size: int) -> Read:
    """Return a function that reads batches with the peer's get_batch from `data`/train.bin."""
    script = ast.parse((clone / "train.py").read_text())
    functions: list[ast.stmt] = [
        node
        for node in script.body
        if isinstance(node, ast.FunctionDef) and node.name == "get_batch"
    ]
    if not functions:
        raise ValueError(f"{clone / 'train.py'} has no get_batch; is this karpathy/nanoGPT?")
    variables = {"data_dir": str(data), "batch_size": batch, "block_size": block_size}
    variables |= {"device": "cpu", "device_type": "cpu"}
    scope: dict[str, Any] = {"np": np, "os": os, "torch": torch, **variables}
    exec(compile(ast.Module(functions, type_ignores=[]), "get_batch", "exec"), scope)

    def read(count: int) -> None:
        for _ in range(count):
            scope["get_batch"]("train")

    return read


def gigabytes_per_second(read: Read, count: int, n_bytes: int) -> tuple[float, float]:
    """Read `count` batches; return GB per second of CPU time and per second of wall time."""
    started, cpu_seconds = time.perf_counter(), time.process_time()
    read(count)
    cpu_seconds, seconds = time.process_time() - cpu_seconds, time.perf_counter() - started
    return n_bytes / cpu_seconds / 1e9, n_bytes / seconds / 1e9


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure every shape here: GB per core's second, and per second of wall time ("… clock")."""
    torch.set_num_threads(1)
    files = sorted(options.folder.glob("*.npy"))
    speeds = {}
    for batch, block_size in SHAPES:
        if options.measure == "ours":
            read = ours(TokenStream.open(files), batch, block_size)
        else:
            read = nanogpt(options.peer_nanogpt, options.folder, batch, block_size)
        count = max(1, options.read_tokens // (batch * block_size))
        read(max(1, count // 4))  # warm up
        shape, n_bytes = f"{batch}x{block_size}", count * batch * block_size * 2
        speeds[shape], speeds[f"{shape} clock"] = gigabytes_per_second(read, count, n_bytes)
    return speeds


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1 << 26, help="in all files together")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--read-tokens", type=int, default=1 << 23, help="per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--measure", choices=("ours", "peer"), help="one measurement, here")
    parser.add_argument("--folder", type=Path, help="of the files to measure with")
    return parser.parse_args()


def main() -> None:
    """Run `python -m benchmarks.loader_speed`."""
    options = parse_options()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.tokens, options.files)
        sides = ("ours", "peer") if options.peer_nanogpt else ("ours",)
        runs = take_turns(dict.fromkeys(sides, ("--folder", folder)), options.rounds)
    print("| batch | reader | GB per core's second | lowest to highest | GB/s on the clock |")
    print("|---|---|---|---|---|")
    for batch, block_size in SHAPES:
        shape = f"{batch}x{block_size}"
        for who, measured in runs.items():
            low, high = spread(measured, shape)
            print(
                f"| {shape} | {who} | {median_of(measured, shape):.3f} | {low:.3f} to {high:.3f} "
                f"| {median_of(measured, f'{shape} clock'):.3f} |"
            )
    about = {"torch": torch.__version__, "numpy": np.__version__, "results": runs}
    print(json.dumps({**vars(options), **about}, default=str))


if __name__ == "__main__":
    main()
