"""How fast text becomes shards of GPT-2 tokens, compared with nanoGPT's way.

    python -m benchmarks.prepare_speed --texts FOLDER --copies 20 --rounds 5

All .txt and .md files in FOLDER are cut at line ends into documents of about 5 kB, as many times as
`--copies` says, each document with a first line of its own. Ours is four stages, each a process as
DVC starts it: download from these files, clean, tokenize, shard; hashes and fsync included. Theirs
is benchmarks/nanogpt_prepare.py. Both use the same number of worker processes and write the same
number of tokens (checked). Memory is sampled over all processes, without the pages they share.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from benchmarks.side_by_side import median_of, spread, take_turns
from stages.params.presets import preset_text

ROOT = Path(__file__).parents[1]
STAGES = ("download", "clean", "tokenize", "shard")
SIDES = ("gigatoken", "tiktoken", "nanoGPT")
DOCUMENT_CHARACTERS = 5_000
FILES = 8
SAMPLE_SECONDS = 0.5  # a shorter interval slows down what is measured: nanoGPT by a tenth at 0.1
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)


def write_documents(source: Path, folder: Path, copies: int) -> int:
    """Write the documents to FILES files of JSON lines; return the size of their text in bytes."""
    files = [f for f in sorted(source.rglob("*")) if f.suffix in (".txt", ".md") and f.is_file()]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    n_bytes = 0
    folder.mkdir()
    outs = [(folder / f"{number:02d}.jsonl").open("w") for number in range(FILES)]
    for number, document in enumerate(documents(texts, copies)):
        n_bytes += len(document.encode("utf-8"))
        outs[number % FILES].write(json.dumps({"text": document}) + "\n")
    for out in outs:
        out.close()
    return n_bytes


def documents(texts: Sequence[str], copies: int) -> Iterator[str]:
    """Yield the documents that texts are cut into at line ends, no two alike."""
    for copy in range(copies):
        for number, text in enumerate(texts):
            first = 0
            while first < len(text):
                end = text.find("\n", first + DOCUMENT_CHARACTERS) + 1 or len(text)
                yield f"Copy {copy}, text {number}, from {first}.\n{text[first:end]}"
                first = end


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak memory of this process's children in bytes."""
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(SAMPLE_SECONDS):
            most = max(most, sum(map(unshared_bytes, psutil.Process().children(recursive=True))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        thread.join()


def unshared_bytes(process: psutil.Process) -> int:
    """Return the unshared memory (USS) of a process; 0 if it has ended."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


def run_timed(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> dict[str, float]:
    """Run a command; return its wall time and CPU time, its children's included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )
    seconds = time.perf_counter() - started
    wait_for_children()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": cpu_seconds}


def adopt_orphans() -> None:
    """Become the parent of processes that children leave behind, so that their CPU time counts.

    On Linux alone; elsewhere the CPU time of our workers is missing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def wait_for_children() -> None:
    """Wait until all child processes, adopted or not, have ended."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def write_params(file: Path, texts: Path, engine: str) -> None:
    """Write the params of nanoGPT's GPT-2 preset, with these texts and this engine."""
    yaml = YAML()
    params = yaml.load(preset_text(ROOT / "presets/gpt2-124m-openwebtext.yaml"))
    params["corpus"].update({"source": "files", "path": str(texts), "glob": "*.jsonl"})
    params["tokenize"]["engine"] = engine
    yaml.dump(params, file)


def measure(who: str, texts: Path, workers: int) -> dict[str, Any]:
    """Measure one run of one side in a temporary folder."""
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name, peak_memory() as peak:
        folder = Path(name)
        (folder / ".cache").mkdir()
        shutil.copy(ROOT / ".cache/gpt2.tiktoken", folder / ".cache")
        if who == "nanoGPT":
            files = sorted(map(str, texts.glob("*.jsonl")))
            command = [sys.executable, "-m", "benchmarks.nanogpt_prepare", *files]
            command += ["--out", name, "--num-proc", str(workers)]
            quiet = {"HF_HOME": f"{name}/hub", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
            parts = {"prepare": run_timed(command, folder, quiet)}
            tokens = sum((folder / f"{split}.bin").stat().st_size for split in ("train", "val")) / 2
        else:
            write_params(folder / "params.yaml", texts, who)
            settings = {"NANOGPT_WORKERS": str(workers)}
            parts = {
                stage: run_timed([sys.executable, "-m", "stages", stage], folder, settings)
                for stage in STAGES
            }
            splits = json.loads((folder / "data/shards/manifest.json").read_text())["splits"]
            tokens = sum(split["tokens"] for split in splits.values())
        keys = ("seconds", "processor_seconds")
        total = {key: sum(part[key] for part in parts.values()) for key in keys}
        return {**total, "peak_bytes": peak(), "tokens": int(tokens), "parts": parts}


def row_of(who: str, runs: Sequence[dict[str, Any]], megabytes: float) -> dict[str, Any]:
    """Return the metrics of one side: medians over its runs."""
    low, high = spread(runs, "seconds")
    stages = {stage: [run["parts"][stage] for run in runs] for stage in runs[0]["parts"]}
    return {
        "side": who,
        "mb_per_second": round(megabytes / median_of(runs, "seconds"), 2),
        "lowest": round(megabytes / high, 2),
        "highest": round(megabytes / low, 2),
        "processor_ms_per_mb": round(1e3 * median_of(runs, "processor_seconds") / megabytes, 2),
        "peak_mb": round(median_of(runs, "peak_bytes") / 1e6),
        "stages_processor_ms_per_mb": {
            stage: round(1e3 * median_of(parts, "processor_seconds") / megabytes, 2)
            for stage, parts in stages.items()
        },
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line for each side."""
    peer = next(row["mb_per_second"] for row in rows if row["side"] == "nanoGPT")
    print("| | MB/s | lowest to highest | against nanoGPT | processor ms/MB | peak MB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['side']} | {row['mb_per_second']} | {row['lowest']} to {row['highest']} "
            f"| {row['mb_per_second'] / peer:.2f} | {row['processor_ms_per_mb']} "
            f"| {row['peak_mb']} |"
        )


def main() -> None:
    """Run `python -m benchmarks.prepare_speed`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--texts", type=Path, required=True, help="a folder with .txt or .md files")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--documents", type=Path, help=argparse.SUPPRESS)  # what was written
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.documents, options.workers)))
        return
    with tempfile.TemporaryDirectory() as name:
        written = Path(name) / "documents"
        megabytes = write_documents(options.texts, written, options.copies) / 1e6
        sides = {who: ["--documents", str(written)] for who in SIDES}
        results = take_turns(sides, options.rounds)
    counts = {run["tokens"] for runs in results.values() for run in runs}
    if len(counts) > 1:
        raise SystemExit(f"the sides wrote different numbers of tokens: {sorted(counts)}")
    rows = [row_of(who, runs, megabytes) for who, runs in results.items()]
    show(rows)
    about = {"megabytes": round(megabytes, 1), "tokens": counts.pop(), "results": rows}
    print(json.dumps({**vars(options), **about}, default=str))


if __name__ == "__main__":
    main()
