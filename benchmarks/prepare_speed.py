"""How fast text becomes shards of GPT-2 ids, compared with nanoGPT's way.

    python -m benchmarks.prepare_speed --texts FOLDER --copies 20 --rounds 5

All .txt and .md files in FOLDER are cut into documents of about 5 kB at line ends, as often as
`--copies` says, each document with a first line of its own. Ours is four stages, each a process as
DVC starts it: download from these files, clean, tokenize, shard; hashes and fsync included. Theirs
is benchmarks/nanogpt_prepare.py. Both use as many worker processes and write the same number of ids
(checked). Memory is that of all processes together, without what they share, sampled.
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

from benchmarks.side_by_side import in_turn, middle, spread
from stages.tools.preset import preset_text

ROOT = Path(__file__).parents[1]
STAGES = ("download", "clean", "tokenize", "shard")
SIDES = ("gigatoken", "tiktoken", "nanoGPT")
DOCUMENT_CHARACTERS = 5_000
FILES = 8
SAMPLE_SECONDS = 0.5  # more often than that slows what is measured: nanoGPT by a tenth at 0.1
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)


def write_texts(source: Path, folder: Path, copies: int) -> int:
    """Write the documents as FILES files of JSON lines; the bytes of their text."""
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
    """Texts cut at line ends, no two alike."""
    for copy in range(copies):
        for number, text in enumerate(texts):
            first = 0
            while first < len(text):
                end = text.find("\n", first + DOCUMENT_CHARACTERS) + 1 or len(text)
                yield f"Copy {copy}, text {number}, from {first}.\n{text[first:end]}"
                first = end


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A function that returns the most bytes this process's children held together."""
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(SAMPLE_SECONDS):
            most = max(most, sum(map(own_bytes, psutil.Process().children(recursive=True))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        thread.join()


def own_bytes(process: psutil.Process) -> int:
    """What a process does not share with others; 0 once it is gone."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


def timed(command: Sequence[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds on the clock and on processors that a command takes, its children's included."""
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
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": used}


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind: its time counts too.

    On Linux alone; elsewhere the processor time of our workers is missing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def wait_for_children() -> None:
    """Wait until the last one, adopted or not, has ended."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def write_params(file: Path, texts: Path, engine: str) -> None:
    """The preset of nanoGPT's GPT-2, but with these texts and this engine."""
    yaml = YAML()
    params = yaml.load(preset_text(ROOT / "presets/gpt2-124m-openwebtext.yaml"))
    params["corpus"].update({"source": "files", "path": str(texts), "glob": "*.jsonl"})
    params["tokenize"]["engine"] = engine
    yaml.dump(params, file)


def measure(who: str, texts: Path, workers: int) -> dict[str, Any]:
    """One run of one side in a folder of its own."""
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
            parts = {"prepare": timed(command, folder, quiet)}
            tokens = sum((folder / f"{split}.bin").stat().st_size for split in ("train", "val")) / 2
        else:
            write_params(folder / "params.yaml", texts, who)
            settings = {"NANOGPT_WORKERS": str(workers)}
            parts = {
                stage: timed([sys.executable, "-m", "stages", stage], folder, settings)
                for stage in STAGES
            }
            splits = json.loads((folder / "data/shards/manifest.json").read_text())["splits"]
            tokens = sum(split["tokens"] for split in splits.values())
        keys = ("seconds", "processor_seconds")
        total = {key: sum(part[key] for part in parts.values()) for key in keys}
        return {**total, "peak_bytes": peak(), "tokens": int(tokens), "parts": parts}


def row_of(who: str, runs: Sequence[dict[str, Any]], megabytes: float) -> dict[str, Any]:
    """The medians of one side."""
    low, high = spread(runs, "seconds")
    stages = {stage: [run["parts"][stage] for run in runs] for stage in runs[0]["parts"]}
    return {
        "side": who,
        "mb_per_second": round(megabytes / middle(runs, "seconds"), 2),
        "lowest": round(megabytes / high, 2),
        "highest": round(megabytes / low, 2),
        "processor_ms_per_mb": round(1e3 * middle(runs, "processor_seconds") / megabytes, 2),
        "peak_mb": round(middle(runs, "peak_bytes") / 1e6),
        "stages_processor_ms_per_mb": {
            stage: round(1e3 * middle(parts, "processor_seconds") / megabytes, 2)
            for stage, parts in stages.items()
        },
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
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
    """`python -m benchmarks.prepare_speed`."""
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
        megabytes = write_texts(options.texts, written, options.copies) / 1e6
        sides = {who: ["--documents", str(written)] for who in SIDES}
        results = in_turn(sides, options.rounds)
    counts = {run["tokens"] for runs in results.values() for run in runs}
    if len(counts) > 1:
        raise SystemExit(f"the sides wrote different numbers of ids: {sorted(counts)}")
    rows = [row_of(who, runs, megabytes) for who, runs in results.items()]
    show(rows)
    about = {"megabytes": round(megabytes, 1), "tokens": counts.pop(), "results": rows}
    print(json.dumps({**vars(options), **about}, default=str))


if __name__ == "__main__":
    main()
