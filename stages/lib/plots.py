"""The picture of a run: how the loss fell, and how that compares with the baselines."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

HALF_WINDOW = 10  # updates on each side of a point of the thick line
INK, FAINT, WARM, GREEN, PINK = "#1f4e79", "#b8cbe0", "#d9822b", "#00795c", "#c2559b"
GRAY = "#707070"
STYLES: dict[str, dict[str, Any]] = {  # of baselines drawn in both panels, by colour and dashes
    "kneser_ney": {"color": GREEN, "linestyle": (0, (5, 2))},
    "ppmd": {"color": PINK, "linestyle": (0, (1, 1.2))},
}
PLAIN: dict[str, Any] = {"color": GRAY, "linestyle": ":"}
NAMES = {"kneser_ney": "Kneser-Ney", "ppmd": "PPMd"}
LABEL_GAP = 0.05  # of the height of a panel: below this, names of lines would touch


def write_table(file: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """A CSV file with a header."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_curve(file: Path) -> tuple[list[int], list[float]]:
    """Steps and losses of a curve."""
    with file.open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]


def smoothed(values: list[float]) -> list[float]:
    """Return the mean of each value and as many on either side, HALF_WINDOW at most.

    Fewer near the end, where no more are left, and at the start, where the loss falls so fast that
    it bends within a window: a third of those before.
    """
    last = len(values) - 1
    halves = [min(HALF_WINDOW, i // 3, last - i) for i in range(len(values))]
    return [sum(values[i - h : i + h + 1]) / (2 * h + 1) for i, h in enumerate(halves)]


def spread(places: list[float], gap: float) -> list[float]:
    """Return the places nearest to those given that keep their order and are `gap` apart.

    Places that are too near form a group around their mean, and groups that then touch become one.
    """
    groups: list[tuple[float, int]] = []  # (centre, size), upwards
    for place in sorted(places):
        centre, size = place, 1
        while groups and centre - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            below, n = groups.pop()
            centre, size = (below * n + centre * size) / (n + size), n + size
        groups.append((centre, size))
    apart = [centre + gap * (i - (n - 1) / 2) for centre, n in groups for i in range(n)]
    order = sorted(range(len(places)), key=places.__getitem__)
    return [apart[order.index(i)] for i in range(len(places))]


def draw_run(train: Path, val: Path, result: dict[str, Any], file: Path) -> None:
    """Draw two panels: the learning curve, and bits per byte next to the baselines."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=(3, 2), layout=ConstrainedLayoutEngine(wspace=0.06)
    )
    draw_curves(left, train, val)
    draw_lines(left, {name: b["val_loss"] for name, b in result["baselines"].items()})
    draw_bars(right, {name: b["bits_per_byte"] for name, b in result["baselines"].items()}, result)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(figure)


def draw_curves(axes: Axes, train: Path, val: Path) -> None:
    """Draw the losses of training and validation by step."""
    steps, losses = read_curve(train)
    axes.plot(steps, losses, color=FAINT, linewidth=1, label="training, each update")
    axes.plot(steps, smoothed(losses), color=INK, linewidth=1.8, label="training, smoothed")
    axes.plot(*read_curve(val), "o-", color=WARM, markersize=4, label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Learning")
    axes.legend(loc="upper right", edgecolor="none", framealpha=0.9)  # lines may pass behind it


def draw_lines(axes: Axes, losses: dict[str, float]) -> None:
    """Draw the loss of each baseline but the uniform as a line, its name next to the panel."""
    shown = {name: loss for name, loss in losses.items() if name != "uniform"}
    low, high = axes.get_ylim()
    low, high = min(low, *shown.values()), max(high, *shown.values())
    axes.set_ylim(low - 0.02 * (high - low), high)
    for name, loss in shown.items():
        axes.axhline(loss, linewidth=1.2, zorder=1, **STYLES.get(name, PLAIN))
    low, high = axes.get_ylim()
    places = spread([(loss - low) / (high - low) for loss in shown.values()], LABEL_GAP)
    for name, place in zip(shown, places, strict=True):
        color = STYLES.get(name, PLAIN)["color"]
        label = NAMES.get(name, name)
        axes.text(1.01, place, label, color=color, va="center", transform=axes.transAxes)


def draw_bars(axes: Axes, scores: dict[str, float], result: dict[str, Any]) -> None:
    """Draw the bits per byte of the baselines and the model, with the lines of the left panel."""
    own = {"this model": result["bits_per_byte"]}
    if "adaptive" in result:
        own["the same, learning"] = result["adaptive"]["bits_per_byte"]
    colors = [STYLES[name]["color"] if name in STYLES else FAINT for name in scores]
    colors += [INK] * len(own)
    scores = {**scores, **own}
    axes.barh(range(len(scores)), list(scores.values()), color=colors, height=0.7)
    labels = [f"{NAMES.get(name, name)}  {score:.2f}" for name, score in scores.items()]
    axes.set_yticks(range(len(scores)), labels)
    for label in axes.get_yticklabels()[-len(own) :]:
        label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    for name, style in STYLES.items():
        axes.axvline(scores[name], linewidth=1.2, **style)
    axes.set(xlabel="bits per byte of unseen text (less is better)", title="Predicting")
    axes.invert_yaxis()
