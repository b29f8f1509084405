"""What the page shows of several runs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.report.charts import Drawing, tick_label
from stages.report.figures import learning_curves, style_of
from stages.report.run import Run
from stages.report.view import RunView, Sample, featured, shortened, sizes_of, tokens_read, view_of
from stages.runtime.inputs import leaves
from stages.tracking.registry import Difference, difference
from stages.tracking.titles import SHORT, shown

COLUMNS = 4  # of params that differ; the rest are counted
BETWEEN = ("train.", "model.", "tokenize.")  # the params that differ most often, first


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run in the table of the comparison."""

    view: RunView
    style: str
    params: Sequence[str]  # that differ
    tokens: str  # of training
    share: float  # percent, of the longest bar
    best: bool
    behind: str  # the best one, in bits per byte
    sample: Sample | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs. Unless all were measured on the same text, there is no best one."""

    rows: Sequence[Row]
    columns: Sequence[str]  # the params that differ
    more: int  # params that differ, too
    comparable: bool
    sentence: str
    learning: Sequence[Drawing]


def comparison_of(runs: Sequence[Run]) -> Comparison:
    """Compare runs in the order given."""
    differing = differing_params(runs)
    columns = list(differing)[:COLUMNS]
    comparable = len({run.text_id for run in runs}) == 1
    best = min(runs, key=lambda run: float(run.evaluation["bits_per_byte"]))
    longest = max(run.evaluation["bits_per_byte"] for run in runs)
    prompt = shared_prompt(runs)
    rows = []
    for number, run in enumerate(runs):
        is_best = comparable and run is best
        rows.append(
            Row(
                view=view_of(run),
                style=style_of(number),
                params=[differing[key][number] for key in columns],
                tokens=tick_label(tokens_read(run)),
                share=round(100 * run.evaluation["bits_per_byte"] / longest, 2),
                best=is_best,
                behind="" if is_best or not comparable else behind(best, run),
                sample=sample_for(run, prompt),
            )
        )
    return Comparison(
        rows=rows,
        columns=[SHORT.get(key, key) for key in columns],
        more=len(differing) - len(columns),
        comparable=comparable,
        sentence=sentence(best, runs) if comparable else "",
        learning=sizes_of(learning_curves(runs)),
    )


def differing_params(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the params that are not the same in all runs: the value of each run, by dotted key."""
    flat: list[dict[str, Any]] = [dict(leaves(run.params)) for run in runs]
    keys = dict.fromkeys(key for params in flat for key in params)
    found = {
        key: [shown(params[key]) if key in params else "–" for params in flat]
        for key in keys
        if any(params.get(key) != flat[0].get(key) for params in flat)
    }
    order = [*SHORT, *(key for key in found if key.startswith(BETWEEN)), *found]
    return {key: found[key] for key in dict.fromkeys(order) if key in found}


def behind(best: Run, run: Run) -> str:
    """Return by how much a run is worse than the best one, and the standard error of that."""
    found = difference(best.score, run.score)
    return f"+{found.bits_per_byte:.4f} ± {error_of(found)}"


def error_of(found: Difference) -> str:
    """Return the standard error of a difference."""
    error = found.standard_error
    return f"{error:.4f}" if error >= 1e-4 else f"{error:.1g}"


def sentence(best: Run, runs: Sequence[Run]) -> str:
    """Return the verdict on runs that were measured on the same text."""
    others = sorted(
        (run for run in runs if run is not best),
        key=lambda run: float(run.evaluation["bits_per_byte"]),
    )
    found = difference(best.score, others[0].score)
    than = others[0].revision.name
    if not found.is_certain:
        return (
            f"but its lead over {than} is within chance: {found.bits_per_byte:.4f}, with a "
            f"standard error of {error_of(found)}"
        )
    return (
        f"{found.bits_per_byte:.4f} better than {than}, the runner-up (standard error of the "
        f"difference: {error_of(found)})"
    )


def shared_prompt(runs: Sequence[Run]) -> str | None:
    """Return the first prompt that every run continued, None if there is none."""
    prompts = [dict.fromkeys(sample["prompt"] for sample in run.samples) for run in runs]
    return next((prompt for prompt in prompts[0] if all(prompt in p for p in prompts)), None)


def sample_for(run: Run, prompt: str | None) -> Sample | None:
    """Return the beginning of the first sample for a prompt, or of any if there is no prompt."""
    samples = [Sample(prompt=one["prompt"], text=one["text"]) for one in run.samples]
    wanted = [sample for sample in samples if prompt in (None, sample.prompt)]
    return shortened(featured(wanted)[0]) if wanted else None
