"""How fast training data is read: tokens from files to int64 batches, beside nanoGPT's reader.

    python -m benchmarks.loader_speed --files 90 --peer-nanogpt ../nanoGPT

A byte is one of the files: two per token, each token counted once. A core's second is one of the
process's time on processors: what the thread that reads ahead does is counted, waiting is not. The
files are in memory: the disk is not what is measured. Readers take turns, several times.
nanoGPT's train.py trains when it is imported, so its get_batch alone is taken out of the file.
"""

import argparse
import ast
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from nanogpt.data import TokenStream, WindowOrder
from nanogpt.loader import micro_batches
from nanogpt.runtime import Runtime

VOCAB_SIZE = 50257
SHAPES = ((12, 64), (16, 128), (64, 256), (12, 1024), (64, 1024))  # (B, T) of a batch
RUNTIME = Runtime(device=torch.device("cpu"), dtype=torch.float32)

Read = Callable[[int], None]


def write_files(folder: Path, n_tokens: int, count: int) -> list[Path]:
    """Random tokens in `count` files, and all of them as nanoGPT keeps them in `train.bin`."""
    draw = np.random.default_rng(0)
    files = [folder / f"{number:05d}.npy" for number in range(count)]
    with (folder / "train.bin").open("wb") as whole:
        for file in files:
            tokens = draw.integers(VOCAB_SIZE, size=n_tokens // count).astype(np.uint16)
            np.save(file, tokens)
            tokens.tofile(whole)
    return files


def ours(stream: TokenStream, batch: int, block_size: int) -> Read:
    """Read so many batches as training does, going on where the last call ended."""
    order = WindowOrder(n_tokens=len(stream), block_size=block_size, seed=0)
    done = 0

    def read(count: int) -> None:
        nonlocal done
        numbers = range(done, done + count)
        done += count
        for _ in micro_batches(
            stream, order, numbers=numbers, micro=batch, vocab_size=VOCAB_SIZE, runtime=RUNTIME
        ):
            pass

    return read


def nanogpt(clone: Path, data: Path, batch: int, block_size: int) -> Read:
    """Read so many batches by the peer's own get_batch, from `train.bin` in the folder `data`."""
    script = ast.parse((clone / "train.py").read_text())
    found: list[ast.stmt] = [
        node
        for node in script.body
        if isinstance(node, ast.FunctionDef) and node.name == "get_batch"
    ]
    if not found:
        raise ValueError(f"{clone / 'train.py'} has no get_batch; is this karpathy/nanoGPT?")
    names = {"data_dir": str(data), "batch_size": batch, "block_size": block_size}
    names |= {"device": "cpu", "device_type": "cpu"}
    scope: dict[str, Any] = {"np": np, "os": os, "torch": torch, **names}
    exec(compile(ast.Module(found, type_ignores=[]), "get_batch", "exec"), scope)

    def read(count: int) -> None:
        for _ in range(count):
            scope["get_batch"]("train")

    return read


def gigabytes_per_second(read: Read, count: int, n_bytes: int) -> tuple[float, float]:
    """(per core's second, per second on the clock) of reading so many batches."""
    started, used = time.perf_counter(), time.process_time()
    read(count)
    used, seconds = time.process_time() - used, time.perf_counter() - started
    return n_bytes / used / 1e9, n_bytes / seconds / 1e9


def measured(
    readers: dict[str, Read], batch: int, block_size: int, tokens: int, rounds: int
) -> list[dict[str, object]]:
    """The medians and spreads of every reader for one shape of batch."""
    count = max(1, tokens // (batch * block_size))
    n_bytes = count * batch * block_size * 2
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for read in readers.values():
        read(max(1, count // 4))  # warm up
    for _ in range(rounds):
        for name, read in readers.items():
            found[name].append(gigabytes_per_second(read, count, n_bytes))
    return [
        {
            "reader": name,
            "batch": batch,
            "block_size": block_size,
            "gb_per_core_second": round(median(core for core, _ in values), 3),
            "lowest": round(min(core for core, _ in values), 3),
            "highest": round(max(core for core, _ in values), 3),
            "gb_per_second": round(median(clock for _, clock in values), 3),
        }
        for name, values in found.items()
    ]


def main() -> None:
    """`python -m benchmarks.loader_speed`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1 << 26, help="in all files together")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--read-tokens", type=int, default=1 << 23, help="per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        files = write_files(Path(name), options.tokens, options.files)
        for batch, block_size in SHAPES:
            readers = {"ours": ours(TokenStream.open(files), batch, block_size)}
            if options.peer_nanogpt:
                peer = nanogpt(options.peer_nanogpt, Path(name), batch, block_size)
                readers["nanoGPT"] = peer
            rows += measured(readers, batch, block_size, options.read_tokens, options.rounds)
    print("| batch | reader | GB per core's second | lowest to highest | GB/s on the clock |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['batch']}x{row['block_size']} | {row['reader']} | {row['gb_per_core_second']} "
            f"| {row['lowest']} to {row['highest']} | {row['gb_per_second']} |"
        )
    about = {"torch": torch.__version__, "numpy": np.__version__, "results": rows}
    print(json.dumps({**vars(options), **about}, default=str))


if __name__ == "__main__":
    main()
