"""Show how the params and metrics of two commits or experiments differ.

A and B are commits, branches, tags or names of experiments (`dvc exp show` lists them). Without B,
A is compared with the working tree. `make compare A=… B=…` runs this.
"""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stages.formats.dvc_lock import run_dvc
from stages.runtime.settings import Settings

NOW = "workspace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("a", metavar="A", help="a commit, branch, tag or experiment")
    parser.add_argument(
        "b", metavar="B", nargs="?", default=NOW, help="likewise (default: the working tree)"
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages compare A [B]`.

    Raises ValueError if git or DVC does not know one of them.
    """
    console = Console()
    for kind in ("params", "metrics"):
        if changes := differences(kind, options.a, options.b):
            console.print(table(kind, changes, options.a, options.b))
        else:
            console.print(Text(no_difference(kind, options.a, options.b)))


def differences(kind: str, a: str, b: str, *flags: str) -> dict[str, dict[str, Any]]:
    """Return the changes that DVC finds, by key: `old`, `new` and, for numbers, `diff`."""
    revisions = [a] if b == NOW else [a, b]
    files: dict[str, dict[str, dict[str, Any]]] = json.loads(
        run_dvc(kind, "diff", "--json", *flags, *revisions)
    )
    return {key: change for file in files.values() for key, change in file.items()}


def no_difference(kind: str, a: str, b: str) -> str:
    """Return a line that says that nothing differs, or that there is nothing to compare."""
    if differences(kind, a, b, "--all"):  # with the values that are the same
        return f"{kind}: no difference between {a} and {b}"
    return (
        f"{kind}: neither {a} nor {b} has any; `make run` records them in dvc.lock, which git "
        "keeps once you commit it"
    )


def table(title: str, changes: dict[str, dict[str, Any]], a: str, b: str) -> Table:
    """Return the changes as a table with one row per key."""
    rows = Table(title, escape(a), escape(b), "change", box=None, header_style="bold")
    for key, change in sorted(changes.items()):
        difference = change.get("diff")
        cells = (
            key,
            shown(change.get("old")),
            shown(change.get("new")),
            "" if difference is None else f"{difference:+.4g}",
        )
        rows.add_row(*map(Text, cells))  # as text: a value may look like rich's markup
    return rows


def shown(value: Any) -> str:
    """Return a value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:g}"
    return "-" if value is None else str(value)
