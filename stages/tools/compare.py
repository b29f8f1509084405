"""Show how the params and metrics of two commits or experiments differ.

A and B are commits, branches, tags or names of experiments (`dvc exp show` lists them). Without B,
A is compared with the working tree. `make compare A=… B=…` runs this.
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
    """Add the arguments."""
    parser.add_argument("a", metavar="A", help="a commit, branch, tag or experiment")
    parser.add_argument(
        "b", metavar="B", nargs="?", default=NOW, help="likewise (default: the working tree)"
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages compare A [B]`. Raises ValueError if git or DVC does not know one."""
    console = Console()
    for kind in ("params", "metrics"):
        changes = differences(kind, options.a, options.b)
        if changes:
            console.print(table(kind, changes, options.a, options.b))
        else:
            console.print(f"{kind}: the same in {options.a} and {options.b}")


def differences(kind: str, a: str, b: str) -> dict[str, dict[str, Any]]:
    """Return the changes that DVC finds, by key: `old`, `new` and, for numbers, `diff`.

    Raises ValueError with DVC's message if it cannot compare.
    """
    revisions = [a] if b == NOW else [a, b]
    done = subprocess.run(
        ["dvc", kind, "diff", "--json", *revisions], capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(f"{a} and {b} cannot be compared: {lines[-1] if lines else 'DVC failed'}")
    files: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return {key: change for file in files.values() for key, change in file.items()}


def table(title: str, changes: dict[str, dict[str, Any]], a: str, b: str) -> Table:
    """Return the changes as a table with a row per key."""
    rows = Table(title, a, b, "change", box=None, header_style="bold")
    for key, change in sorted(changes.items()):
        difference = change.get("diff")
        rows.add_row(
            key,
            shown(change.get("old")),
            shown(change.get("new")),
            "" if difference is None else f"{difference:+.4g}",
        )
    return rows


def shown(value: Any) -> str:
    """Return a value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:g}"
    return "-" if value is None else str(value)
