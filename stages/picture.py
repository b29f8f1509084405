"""The picture of a run: how the loss fell, and what that is worth beside mere counting."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

from matplotlib import pyplot as plt

SMOOTHED = 20  # updates behind each point of the thick line
INK, FAINT, WARM = "#1f4e79", "#b8cbe0", "#d9822b"


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
    """Each value as the mean of itself and up to SMOOTHED - 1 before it."""
    return [
        sum(values[max(0, i + 1 - SMOOTHED) : i + 1]) / min(i + 1, SMOOTHED)
        for i in range(len(values))
    ]


def draw_run(train: Path, val: Path, result: dict[str, Any], file: Path) -> None:
    """Two panels: the learning curve, and bits per byte beside the baselines."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4), width_ratios=(3, 2), layout="constrained"
    )
    steps, losses = read_curve(train)
    left.plot(steps, losses, color=FAINT, linewidth=0.8)
    left.plot(steps, smoothed(losses), color=INK, label="training")
    left.plot(*read_curve(val), "o-", color=WARM, label="validation")
    for name in ("unigram", "bigram"):
        loss = result["baselines"][name]["val_loss"]
        left.axhline(loss, color="gray", linestyle=":", linewidth=1)
        left.annotate(name, (1, loss), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    left.set(xlabel="step", ylabel="loss (nats per token)", title="Learning")
    left.legend(frameon=False)
    scores = {name: b["bits_per_byte"] for name, b in result["baselines"].items()}
    scores["this model"] = result["bits_per_byte"]
    bars = right.barh(
        list(scores), list(scores.values()), color=[FAINT] * (len(scores) - 1) + [INK]
    )
    right.bar_label(bars, fmt="%.2f", padding=3)
    right.set(xlabel="bits per byte of unseen text (less is better)", title="Predicting")
    right.invert_yaxis()
    right.margins(x=0.15)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(figure)
