"""Fair comparison: programs measured alternately on one machine, each run in a fresh process."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from stages.runtime.allocator import KEEP_FREED_MEMORY


def peer_module(clone: Path, name: str) -> ModuleType:
    """Import a module from the user's own clone of karpathy/nanoGPT."""
    if not (clone / f"{name}.py").is_file():
        raise SystemExit(f"{clone} has no {name}.py; is it a clone of karpathy/nanoGPT?")
    sys.path.insert(0, str(clone))
    return importlib.import_module(name)


def measure_in_subprocess(who: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run this script again with `--measure who`; return its last line of output, which is JSON.

    The line is also printed to stderr. Ours gets the memory settings that `stages.train.stage`
    gives its processes.
    """
    assert sys.modules["__main__"].__spec__ is not None  # benchmarks are run with -m
    name = sys.modules["__main__"].__spec__.name
    command = [sys.executable, "-m", name, *sys.argv[1:], *options, "--measure", who]
    settings = KEEP_FREED_MEMORY if who == "ours" else {}
    completed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**settings, **os.environ}
    )
    line = completed.stdout.splitlines()[-1]
    print(f"{who} {' '.join(options)}: {line}", file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(line)
    return result


def take_turns(sides: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Measure each side once per round; return its results. A side is a name and its options."""
    results: dict[str, list[dict[str, Any]]] = {who: [] for who in sides}
    for _ in range(rounds):
        for who, options in sides.items():
            results[who].append(measure_in_subprocess(who, options))
    return results


def median_of(results: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the median of one metric."""
    return float(median(result[key] for result in results))


def spread(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return the minimum and maximum of one metric."""
    values = [result[key] for result in results]
    return [min(values), max(values)]
