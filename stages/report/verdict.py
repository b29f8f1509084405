"""The verdict on a model in words, and how to use it again."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.evaluate.baselines import best
from stages.evaluate.plots import NAMES
from stages.report.revisions import Revision


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a model is worth: its bits per byte, and the best baseline."""

    bits: float
    error: float  # the standard error of `bits`
    baseline: str
    margin: float  # how many more bits per byte the baseline needs
    adaptive: float | None  # the bits per byte of a model that keeps learning
    adaptive_margin: float  # that of `adaptive`


def verdict_on(evaluation: Mapping[str, Any]) -> Verdict:
    """Return the verdict on a model, by what metrics/evaluation.json holds."""
    name, least = best(evaluation["baselines"])
    to_bits = evaluation["tokens"] / (math.log(2) * evaluation["bytes"])
    adaptive = evaluation["adaptive"]["bits_per_byte"] if "adaptive" in evaluation else None
    return Verdict(
        bits=evaluation["bits_per_byte"],
        error=evaluation["standard_error"] * to_bits,
        baseline=NAMES.get(name, name),
        margin=least - evaluation["bits_per_byte"],
        adaptive=adaptive,
        adaptive_margin=0.0 if adaptive is None else least - adaptive,
    )


def by_how_much(margin: float) -> str:
    """Return a difference in bits per byte in words, such as `0.042 better`."""
    return f"{abs(margin):.3f} {'better' if margin > 0 else 'worse'}"


def small(error: float) -> str:
    """Return a standard error with at least one digit that is not zero."""
    return f"{error:.3f}" if error >= 0.001 else f"{error:.1g}"


def commands(revision: Revision) -> str:
    """Return the shell commands that use the model of a revision again, in its project."""
    name = shlex.quote(revision.name)
    back = {
        "workspace": [],
        "commit": [f"git restore --source={name} params.yaml dvc.lock", "dvc checkout"],
        "experiment": [f"dvc exp apply {name}"],
    }
    uses = {
        'python -m stages sample --prompt "To be"': "continue a prompt",
        "python -m stages lineage": "verify every hash, down to the corpus",
        "make run": "run whatever is out of date",
    }
    width = max(map(len, uses))
    described = [f"{command:<{width}}  # {use}" for command, use in uses.items()]
    return "\n".join(["source .venv/bin/activate", *back[revision.kind], *described])
