"""What a new user gets: `make run` in a fresh clone, compared with nanoGPT's recipe for CPUs.

    python -m benchmarks.first_run --peer-nanogpt ../nanoGPT --like-avx2

The committed state of this repository is cloned into a temporary folder, and `make run` runs there
as the README says. The peer's train.py then trains by its README's command for a CPU on the
characters of the same training documents; both are measured in bits per byte on all of the same
validation documents. The set-up is timed separately; `--venv .venv` uses this environment instead.

Most laptops have no instructions for bfloat16, so what is fast where developers work may be slow
there. `--like-avx2` runs everything with the kernels of a processor that has AVX2 and nothing
beyond, on any x86 processor that has more. Prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.time_to_loss import Text, peer
from nanogpt.runtime import fastest_dtype, matmul_flops
from nanogpt.train.validation import bits_per_byte

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")

LIKE_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # then bfloat16 is emulated, as on such a processor
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def processor() -> dict[str, Any]:
    """Describe this processor: its name, its fastest number format, its speed in float32."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else "unknown",
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "number_format": str(fastest_dtype(CPU)).removeprefix("torch."),
        "float32_gflops": round(matmul_flops(CPU, torch.float32, 1024) / 1e9),
    }


def clone(folder: Path, venv: Path | None) -> float:
    """Clone the committed state and set it up; return the seconds that the set-up took."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    if venv is not None:
        (folder / ".venv").symlink_to(venv.resolve())
    started = time.perf_counter()
    if venv is None:
        subprocess.run(["make", "setup"], cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def make_run(folder: Path) -> dict[str, Any]:
    """Run all stages and the report; return their times and results."""
    environment = {**os.environ, "PYTHONPATH": ""}  # the clone's own code, not this one's
    started = time.perf_counter()
    commands = ("dvc", "repro"), ("python", "-m", "stages", "report")
    environment["PATH"] = f"{folder / '.venv/bin'}{os.pathsep}{environment['PATH']}"
    for command in commands:  # `make run` without its check of the set-up
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    wall = time.perf_counter() - started
    metrics = json.loads((folder / "metrics/evaluation.json").read_text())
    lineage = json.loads((folder / "models/gpt/lineage.json").read_text())
    train = json.loads((folder / "runs/times/train.json").read_text())
    return {
        "seconds": round(wall, 1),
        "train_seconds": train["seconds"],
        "bits_per_byte": metrics["bits_per_byte"],
        "learning_as_it_reads": metrics["adaptive"]["bits_per_byte"],
        "baselines": {k: v["bits_per_byte"] for k, v in metrics["baselines"].items()},
        "hardware": lineage["hardware"],
    }


def split_texts(folder: Path) -> tuple[Text, int]:
    """Return the clone's two splits as characters, and the size of the validation text in bytes."""
    from stages.artifacts.shards import Shards
    from stages.tokenizers.tokenizer import load_tokenizer

    shards = Shards.open(folder / "data/shards")
    tokenizer = load_tokenizer(shards.tokenizer_folder)
    texts = []
    for name in ("train", "val"):
        stream = shards.stream(name)
        tokens = stream.read(0, len(stream))
        texts.append(tokenizer.decode(tokens[tokens != tokenizer.eot_token].tolist()))
    return Text.of(texts[0], texts[1]), len(texts[1].encode())


def measure_peer(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train the peer on the same documents; return its time and bits per byte."""
    text, n_bytes = split_texts(folder)
    options.recipe = options.device = "cpu"
    result = peer(options, text)
    score = bits_per_byte(result["loss"], len(text.val), n_bytes)
    return {"train_seconds": round(result["seconds"], 1), "bits_per_byte": score}


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer-nanogpt", type=Path, metavar="PATH", help="your clone of it")
    parser.add_argument("--like-avx2", action="store_true", help="with the kernels of AVX2 alone")
    parser.add_argument("--venv", type=Path, help="an environment to use instead of a new one")
    return parser.parse_args()


def main() -> None:
    """Run `python -m benchmarks.first_run`."""
    options = parse_options()
    if options.like_avx2 and any(os.environ.get(k) != v for k, v in LIKE_AVX2.items()):
        again = [sys.executable, "-m", "benchmarks.first_run", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **LIKE_AVX2})  # read when torch starts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        setup = clone(folder, options.venv)
        result = {**processor(), "setup_seconds": round(setup, 1), "ours": make_run(folder)}
        if options.peer_nanogpt:
            result["nanogpt"] = measure_peer(options, folder)
    commit = ["git", "rev-parse", "--short", "HEAD"]
    git = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=True)
    print(json.dumps({**result, "commit": git.stdout.strip(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
