"""The charts of the page: what each shows of a run, or of several."""

import math
from collections.abc import Sequence

import numpy as np

from stages.evaluate.plots import NAMES, START, half_window, moving_mean
from stages.report.charts import Axis, Chart, Line, Rule, Values, stairs
from stages.report.run import Run, Statistics, Table
from stages.statistics.lengths import linear_edges, logarithmic_edges

BASELINE_STYLES = {"kneser_ney": "green", "ppmd": "purple"}  # as in plots/run.png
COLORS = 8  # of runs that are compared, in the style sheet
TOKENS = "tokens"
NATS = np.array([-0.25, 0.25])  # around the mean: on a finer axis, noise looks like a trend


def curve(table: Table, x: str, y: str) -> tuple[Values, Values]:
    """Return two columns of a table without the rows whose y is not finite."""
    finite = np.isfinite(table[y])
    return table[x][finite], table[y][finite]


def against_tokens(run: Run, table: Table, y: str) -> tuple[Values, Values]:
    """Return a curve against the tokens that training had read after each step."""
    steps, values = curve(table, "step", y)
    return steps * run.batch_tokens, values


def after_start(values: Values) -> Values:
    """Return a curve without its first part, which falls too steeply for the axis."""
    return values[len(values) // START :]


def smoothed(values: Values) -> Values:
    """Return the moving mean of a curve."""
    return np.array(moving_mean(values.tolist()))


def raw_and_smoothed(x: Values, y: Values) -> list[Line]:
    """Return the line of a curve, and that of its moving mean if it is long enough for one."""
    raw = Line(style="raw", x=x, y=y)
    return [raw, Line(style="training", x=x, y=smoothed(y))] if half_window(len(x)) else [raw]


def from_zero(x: Values) -> Axis:
    """Return an axis from zero to the end of a curve."""
    return Axis(low=0, high=float(x[-1]))


def baseline_style(name: str) -> str:
    """Return the style of a baseline."""
    return BASELINE_STYLES.get(name, "gray")


def learning_curve(run: Run) -> Chart:
    """Return the losses during training against tokens, baselines as rules."""
    x, losses = against_tokens(run, run.train, "loss")
    val_x, val = against_tokens(run, run.val, "loss")
    rules = [
        Rule(baseline_style(name), NAMES.get(name, name), scores["val_loss"])
        for name, scores in run.evaluation["baselines"].items()
        if name != "uniform"
    ]
    return Chart(
        title="Loss during training, against tokens",
        x=from_zero(x),
        y=Axis.around(after_start(losses), after_start(val), np.array([rule.y for rule in rules])),
        x_label=TOKENS,
        y_label="loss, nats per token",
        lines=[
            *raw_and_smoothed(x, losses),
            Line(style="validation", x=val_x, y=val, dots=True),
        ],
        rules=rules,
    )


def learning_rate(run: Run) -> Chart:
    """Return the learning rate of each step."""
    x, rates = against_tokens(run, run.train, "lr")
    return Chart(
        title="Learning rate, against tokens",
        x=from_zero(x),
        y=Axis(low=0, high=1.05 * float(rates.max()) or 1.0),
        x_label=TOKENS,
        y_label="",
        lines=[Line(style="training", x=x, y=rates)],
    )


def gradient_norm(run: Run) -> Chart:
    """Return the norm of the gradient of each step."""
    x, norms = against_tokens(run, run.train, "grad_norm")
    return Chart(
        title="Gradient norm, against tokens",
        x=from_zero(x),
        y=Axis.around(after_start(norms)),
        x_label=TOKENS,
        y_label="",
        lines=[Line(style="training thin", x=x, y=norms)],
    )


def loss_by_position(run: Run) -> Chart:
    """Return the loss by position in the context: how much more context helps.

    With overlapping windows, only the part that the previous window did not cover counts; the other
    positions count in the very first window alone, and are left out.
    """
    x, losses = curve(run.by_position, "position", "loss")
    counted = x > run.evaluation["context"] - run.evaluation["stride"]
    x, losses = x[counted], losses[counted]
    return Chart(
        title="Loss by position",
        x=Axis(low=float(x[0]), high=max(float(x[-1]), float(x[0]) + 1)),
        y=Axis.around(losses, losses.mean() + NATS),
        x_label="position in the context",
        y_label="loss, nats per token",
        lines=raw_and_smoothed(x, losses),
    )


def document_lengths(statistics: Statistics) -> Chart:
    """Return the shares of the documents of each split by length."""
    quantiles = statistics.facts["lengths"]
    shortest, longest = int(quantiles[0]["tokens"]), int(quantiles[-1]["tokens"])
    logarithmic = longest >= 10 * shortest
    bins = (logarithmic_edges if logarithmic else linear_edges)(shortest, longest)
    edges = np.array(bins, dtype=np.float64)
    lines = []
    for style, split in (("training", "train"), ("validation", "val")):
        counts = statistics.lengths[split]
        x, y = stairs(edges, 100 * counts / max(1, counts.sum()))
        lines.append(Line(style=style, x=x, y=y, area=split == "train"))
    return Chart(
        title="Document lengths",
        x=Axis(low=bins[0], high=bins[-1], logarithmic=logarithmic),
        y=Axis(low=0, high=1.05 * max(float(line.y.max()) for line in lines)),
        x_label="tokens in a document",
        y_label="% of documents",
        lines=lines,
    )


def token_frequencies(statistics: Statistics) -> Chart:
    """Return how often the tokens occur, by rank."""
    ranks, counts = statistics.frequencies["rank"], statistics.frequencies["count"]
    low, high = float(counts[-1]), float(counts[0])
    return Chart(
        title="Token frequencies",
        x=Axis(low=1, high=max(float(ranks[-1]), 2), logarithmic=True),
        y=Axis(low=low / 1.2, high=high * 1.2, logarithmic=True),
        x_label="rank of the token",
        y_label="occurrences",
        lines=[Line(style="training", x=ranks, y=counts)],
    )


def bits(run: Run, split: str, losses: Values) -> Values:
    """Convert losses in nats per token to bits per byte, by the means of a split."""
    described = run.shards["splits"][split]
    tokens, size = int(described["tokens"]), int(described["bytes"])
    return losses * (tokens / (math.log(2) * size))


def learning_curves(runs: Sequence[Run]) -> Chart:
    """Return the losses of several runs against tokens, in bits per byte."""
    lines, shown = [], []
    for number, run in enumerate(runs):
        x, train = against_tokens(run, run.train, "loss")
        val_x, val = against_tokens(run, run.val, "loss")
        train, val = smoothed(bits(run, "train", train)), bits(run, "val", val)
        shown += [after_start(train), after_start(val)]
        lines.append(Line(style=f"{style_of(number)} faint", x=x, y=train))
        lines.append(Line(style=style_of(number), x=val_x, y=val, dots=True))
    return Chart(
        title="Losses during training, against tokens",
        x=Axis(low=0, high=max(float(line.x[-1]) for line in lines)),
        y=Axis.around(*shown),
        x_label=TOKENS,
        y_label="bits per byte",
        lines=lines,
    )


def style_of(number: int) -> str:
    """Return the style of a run that is compared; from the ninth on, colors occur again, dashed."""
    return f"run-{number % COLORS}{' dashed' if number >= COLORS else ''}"
