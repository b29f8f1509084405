"""Two programs measured in turn on one machine, each time in a process of its own."""

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
    """A module out of the user's own clone of karpathy/nanoGPT."""
    if not (clone / f"{name}.py").is_file():
        raise SystemExit(f"{clone} has no {name}.py; is it a clone of karpathy/nanoGPT?")
    sys.path.insert(0, str(clone))
    return importlib.import_module(name)


def measured_elsewhere(who: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """What this script prints last when run again with `--measure who`, as JSON; printed at once.

    Ours gets the memory settings that `stages.train.stage` gives its processes.
    """
    assert sys.modules["__main__"].__spec__ is not None  # benchmarks are run with -m
    name = sys.modules["__main__"].__spec__.name
    command = [sys.executable, "-m", name, *sys.argv[1:], *options, "--measure", who]
    settings = KEEP_FREED_MEMORY if who == "ours" else {}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**settings, **os.environ}
    )
    line = done.stdout.splitlines()[-1]
    print(f"{who} {' '.join(options)}: {line}", file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(line)
    return result


def in_turn(sides: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Each side's results of so many rounds; a side is a name and its options."""
    results: dict[str, list[dict[str, Any]]] = {who: [] for who in sides}
    for _ in range(rounds):
        for who, options in sides.items():
            results[who].append(measured_elsewhere(who, options))
    return results


def middle(results: Sequence[Mapping[str, Any]], key: str) -> float:
    """The median of one figure."""
    return float(median(result[key] for result in results))


def spread(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The least and the most of one figure."""
    values = [result[key] for result in results]
    return [min(values), max(values)]
