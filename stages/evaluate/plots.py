"""The plot of a run: how the loss fell, and how the model compares with the baselines."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from stages.lib.plots import Theme, save_plots

HALF_WINDOW = 10  # updates on each side of a point of the moving mean, at least
HALF_WINDOW_SHARE = 100  # of a long run, one in so many updates on each side
START = 100  # one in so many updates, the first ones, may lie above the panel: they fall steeply
MARKERS = 20  # of the validation curve: more would hide it
NAMES = {"kneser_ney": "Kneser-Ney", "ppmd": "PPMd"}
BAR = 0.7  # height of a bar, of the distance between two
LABEL_GAP = 0.062  # of the height of a panel: below this, names of lines would touch
LEGEND = 0.26  # height of the legend, of a panel
LEADER = 0.04  # of the width of a panel: from the end of a line to its name

Curve = tuple[list[int], list[float]]  # steps and losses


def baseline_style(theme: Theme, name: str) -> dict[str, Any]:
    """Return color and dashes of a baseline's line, which both panels show."""
    styles: dict[str, dict[str, Any]] = {
        "kneser_ney": {"color": theme.green, "linestyle": (0, (6, 2))},
        "ppmd": {"color": theme.purple, "linestyle": (0, (6, 1.5, 1.5, 1.5))},
    }
    return {"linewidth": 1.5, **styles.get(name, {"color": theme.gray, "linestyle": (0, (1, 2))})}


def read_curve(file: Path) -> Curve:
    """Return the steps and losses of a curve."""
    with file.open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]


def half_window(n: int) -> int:
    """Return how many values on each side the moving mean of a curve of `n` values takes.

    A quarter of a short curve at most, so that the last window does not reach its steep start.
    """
    return max(0, min(max(HALF_WINDOW, n // HALF_WINDOW_SHARE), (n - 1) // 4))


def moving_mean(losses: list[float]) -> list[float]:
    """Return the centered moving mean of a curve, which lags behind it nowhere.

    At the start, where the loss bends within a window, the window is narrower: a third of the
    values before, and as many after. At the end, where no values follow, it is the least-squares
    line through the last window, which meets the mean at the window's center (Savitzky-Golay
    smoothing of order 1, whose interior is the moving mean).
    """
    values, n, half = np.asarray(losses, dtype=np.float64), len(losses), half_window(len(losses))
    middle = np.arange(n - half)
    halves = np.minimum(half, middle // 3)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    mean = (sums[middle + halves + 1] - sums[middle - halves]) / (2 * halves + 1)
    if half == 0:
        return list(mean.tolist())
    offsets = np.arange(-half, half + 1)
    slope = (offsets * values[-len(offsets) :]).sum() / (offsets**2).sum()
    return [*mean.tolist(), *(mean[-1] + slope * offsets[half + 1 :]).tolist()]


def spread(places: list[float], gap: float) -> list[float]:
    """Return the places nearest to those given that keep their order and are `gap` apart.

    Places that are too near form a group around their mean, and groups that then touch become one.
    """
    groups: list[tuple[float, int]] = []  # (center, size), upwards
    for place in sorted(places):
        center, size = place, 1
        while groups and center - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            below, n = groups.pop()
            center, size = (below * n + center * size) / (n + size), n + size
        groups.append((center, size))
    apart = [center + gap * (i - (n - 1) / 2) for center, n in groups for i in range(n)]
    order = sorted(range(len(places)), key=places.__getitem__)
    return [apart[order.index(i)] for i in range(len(places))]


def padded(values: list[float]) -> tuple[float, float]:
    """Return the range of an axis that shows all values, with some room."""
    low, high = min(values), max(values)
    room = 0.03 * (high - low) or 0.1
    return low - room, high + room


def draw_run(train: Path, val: Path, result: dict[str, Any], file: Path) -> None:
    """Draw two panels, the learning curve and bits per byte next to the baselines, in each theme.

    `train` and `val` are the tables of the curves, `result` is what metrics/evaluation.json holds.
    """
    curves = read_curve(train), read_curve(val)
    losses = {name: baseline["val_loss"] for name, baseline in result["baselines"].items()}

    def draw(theme: Theme) -> Figure:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9, 4), width_ratios=(7, 5), layout=ConstrainedLayoutEngine(wspace=0.04)
        )
        draw_curves(left, *curves, theme)
        draw_legend(left, draw_lines(left, losses, theme))
        draw_bars(right, result, theme)
        return figure

    save_plots(draw, file)


def draw_curves(axes: Axes, train: Curve, val: Curve, theme: Theme) -> None:
    """Draw the losses of training and validation by step."""
    steps, losses = train
    axes.plot(steps, losses, color=theme.raw, linewidth=0.7, label="training, each update")
    if half := half_window(len(losses)):
        axes.plot(
            steps,
            moving_mean(losses),
            color=theme.training,
            linewidth=2,
            label=f"training, mean of {2 * half + 1:,} updates",
            path_effects=[theme.halo(2)],
        )
    val_steps, val_losses = val
    between = max(1, round(len(val_steps) / MARKERS))
    axes.plot(
        val_steps,
        val_losses,
        "o-",
        color=theme.validation,
        linewidth=1.5,
        markersize=5,
        markevery=((len(val_steps) - 1) % between, between),  # the last one has a marker
        markeredgecolor=theme.background,
        label="validation",
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Loss during training")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.01)
    axes.set_ylim(*padded([*losses[len(losses) // START :], *val_losses]))


def draw_lines(axes: Axes, losses: dict[str, float], theme: Theme) -> list[float]:
    """Draw the loss of each baseline but the uniform as a line, its name next to the panel.

    Return the heights of the lines, as shares of the panel's.
    """
    shown = {name: loss for name, loss in losses.items() if name != "uniform"}
    if shown:
        axes.set_ylim(*padded([*axes.get_ylim(), *shown.values()]))
    for name, loss in shown.items():
        axes.axhline(loss, zorder=1, **baseline_style(theme, name))
    low, high = axes.get_ylim()
    ends = [(loss - low) / (high - low) for loss in shown.values()]
    for name, end, place in zip(shown, ends, spread(ends, LABEL_GAP), strict=True):
        axes.annotate(
            NAMES.get(name, name),
            xy=(1, end),
            xytext=(1 + LEADER, place),
            xycoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
                **baseline_style(theme, name),
                "linestyle": "-",
                "linewidth": 1,
            },
        )
    return ends


def draw_legend(axes: Axes, ends: list[float]) -> None:
    """Name the curves on the right, as high as no line of a baseline at `ends` is behind it."""
    tops = [1.0, *(end - 0.02 for end in ends if end > 0.6)]  # lower down are the curves
    free = [top for top in tops if not any(top - LEGEND < end < top for end in ends)]
    axes.legend(loc="upper right", bbox_to_anchor=(1, max(free, default=1)), borderaxespad=0)


def draw_bars(axes: Axes, result: dict[str, Any], theme: Theme) -> None:
    """Draw the bits per byte of baselines and model, the best baselines also as lines."""
    baselines = {NAMES.get(key, key): b["bits_per_byte"] for key, b in result["baselines"].items()}
    own = {"this model": result["bits_per_byte"]}
    if "adaptive" in result:
        own["this model, adaptive"] = result["adaptive"]["bits_per_byte"]
    scores = {**baselines, **own}
    styles = {NAMES[key]: baseline_style(theme, key) for key in result["baselines"] if key in NAMES}
    colors = [styles[name]["color"] if name in styles else theme.raw for name in baselines]
    colors += [theme.training] * len(own)
    axes.barh(range(len(scores)), list(scores.values()), color=colors, height=BAR)
    for name, style in styles.items():  # behind the bars: who is better ends before the line
        span = [list(scores).index(name) + BAR / 2, len(scores) - 1 + BAR / 2]
        axes.plot([scores[name]] * 2, span, zorder=0, **style)
    labels = [f"{name}  {score:.2f}" for name, score in scores.items()]
    axes.set_yticks(range(len(scores)), labels)
    for label in axes.get_yticklabels()[-len(own) :]:
        label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="bits per byte (lower is better)", title="Held-out text")
    axes.invert_yaxis()
