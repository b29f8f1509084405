"""`make compare A=… B=…`: two commits or experiments, what differs in their params and figures.

A and B are what git and DVC know: a commit, a branch, a tag, the name of an experiment (`dvc exp
show` lists them). Without B it is the project as it is now.
"""

import argparse
import json
import subprocess
from typing import Any

from rich.console import Console
from rich.table import Table

from stages.runtime.settings import Settings

NOW = "workspace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("a", metavar="A", help="a commit, branch, tag or experiment")
    parser.add_argument("b", metavar="B", nargs="?", default=NOW, help="the same; by default now")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages compare A [B]`. Raises ValueError at what git and DVC do not know."""
    console = Console()
    for title, kind in (("params", "params"), ("figures", "metrics")):
        changes = differences(kind, options.a, options.b)
        if changes:
            console.print(table(title, changes, options.a, options.b))
        else:
            console.print(f"{title}: the same in {options.a} and {options.b}")


def differences(kind: str, a: str, b: str) -> dict[str, dict[str, Any]]:
    """Return what DVC finds changed, by key: `old`, `new` and, of numbers, `diff`.

    Raises ValueError with DVC's words when it cannot compare.
    """
    revisions = [a] if b == NOW else [a, b]
    done = subprocess.run(
        ["dvc", kind, "diff", "--json", *revisions], capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ValueError(f"{a} and {b} cannot be compared: {said[-1] if said else 'DVC failed'}")
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return {key: change for file in found.values() for key, change in file.items()}


def table(title: str, changes: dict[str, dict[str, Any]], a: str, b: str) -> Table:
    """Return the changes as a table, a row for each key."""
    made = Table(title, a, b, "change", box=None, header_style="bold")
    for key, change in sorted(changes.items()):
        difference = change.get("diff")
        made.add_row(
            key,
            shown(change.get("old")),
            shown(change.get("new")),
            "" if difference is None else f"{difference:+.4g}",
        )
    return made


def shown(value: Any) -> str:
    """Return a value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:g}"
    return "-" if value is None else str(value)
