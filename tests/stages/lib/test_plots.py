"""The picture of a run: the smoothed line, labels that do not touch, all of it drawn."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from stages.lib.plots import (
    GREEN,
    INK,
    PINK,
    WARM,
    draw_bars,
    draw_curves,
    draw_lines,
    draw_run,
    smoothed,
    spread,
    write_table,
)

LOSSES = {"uniform": 7.6, "unigram": 6.5, "bigram": 4.72, "kneser_ney": 4.26, "ppmd": 3.91}
RESULT: dict[str, Any] = {
    "val_loss": 4.1,
    "bits_per_byte": 2.05,
    "baselines": {
        name: {"val_loss": loss, "bits_per_byte": loss / 2} for name, loss in LOSSES.items()
    },
}


def test_the_smoothed_line_is_a_centred_mean() -> None:
    values = [float(i % 7) for i in range(100)]
    assert smoothed(values)[50] == pytest.approx(np.mean(values[40:61]))
    assert smoothed(values)[98] == pytest.approx(np.mean(values[97:]))
    assert smoothed(values)[99] == values[99]


def test_at_the_start_the_mean_is_of_fewer() -> None:
    values = [float(i * i) for i in range(60)]
    assert smoothed(values)[:3] == values[:3]
    assert smoothed(values)[9] == pytest.approx(np.mean(values[6:13]))
    assert smoothed([]) == []
    assert smoothed([3.0]) == [3.0]


def test_a_straight_line_stays_and_a_steep_start_does_not_lag() -> None:
    line = [5 - 0.01 * i for i in range(80)]
    assert smoothed(line) == pytest.approx(line)
    falling = [2 + 5 * math.exp(-i / 5) for i in range(80)]
    assert max(abs(s - v) for s, v in zip(smoothed(falling), falling, strict=True)) < 0.1


@pytest.mark.parametrize(
    ("places", "apart"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.4, 0.6]),
        ([0.52, 0.5, 0.9], [0.61, 0.41, 0.9]),
        ([0.5, 0.6, 0.7], [0.4, 0.6, 0.8]),
        ([0.5, 0.5, 0.65], [0.35, 0.55, 0.75]),  # the first two push the third
        ([], []),
    ],
)
def test_places_are_spread_no_further_than_need_be(places: list[float], apart: list[float]) -> None:
    assert spread(places, 0.2) == pytest.approx(apart)


def test_names_of_lines_do_not_touch() -> None:
    figure, axes = plt.subplots(figsize=(6, 4.2))
    axes.set_ylim(2, 8)
    draw_lines(axes, {"unigram": 4.0, "bigram": 4.01, "kneser_ney": 3.99, "ppmd": 4.02})
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(above.y0 >= below.y1 for below, above in pairwise(boxes))
    plt.close(figure)


def test_lines_outside_of_the_curves_are_shown_whole() -> None:
    figure, axes = plt.subplots()
    axes.set_ylim(4, 5)
    draw_lines(axes, LOSSES)
    low, high = axes.get_ylim()
    assert low < LOSSES["ppmd"]
    assert high == LOSSES["unigram"]  # the uniform one would leave the curves no room
    assert sorted(line.get_ydata()[0] for line in axes.lines) == [3.91, 4.26, 4.72, 6.5]
    plt.close(figure)


def test_bars_have_names_values_and_the_same_lines() -> None:
    figure, axes = plt.subplots()
    draw_bars(axes, {name: loss / 2 for name, loss in LOSSES.items()}, RESULT)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[-3:] == ["Kneser-Ney  2.13", "PPMd  1.96", "this model  2.05"]
    assert [line.get_xdata()[0] for line in axes.lines] == [4.26 / 2, 3.91 / 2]
    plt.close(figure)


def has_colour(picture: Any, colour: str) -> bool:
    """Whether some pixels of a picture (height, width, channels) have a colour."""
    distance = np.abs(picture[..., :3] - np.array(to_rgb(colour))).max(axis=-1)
    return bool((distance < 0.01).sum() > 20)


def test_both_panels_show_curves_and_the_best_baselines(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", ("step", "loss"), [(i, 8 / i**0.2) for i in range(1, 90)])
    write_table(tmp_path / "val.csv", ("step", "loss"), [(40, 4.4), (80, 4.1)])
    for name in ("run.png", "again.png"):
        draw_run(tmp_path / "train.csv", tmp_path / "val.csv", RESULT, tmp_path / name)
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    drawn = imread(tmp_path / "run.png")
    middle = drawn.shape[1] * 3 // 5
    left, right = drawn[:, :middle], drawn[:, middle:]
    assert all(has_colour(left, colour) for colour in (INK, WARM, GREEN, PINK))
    assert all(has_colour(right, colour) for colour in (INK, GREEN, PINK))
    assert not has_colour(right, WARM)


def test_the_legend_names_both_lines_of_the_training(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", ("step", "loss"), [(1, 5.0), (2, 4.0)])
    write_table(tmp_path / "val.csv", ("step", "loss"), [(2, 4.1)])
    figure, axes = plt.subplots()
    draw_curves(axes, tmp_path / "train.csv", tmp_path / "val.csv")
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["training, each update", "training, smoothed", "validation"]
    plt.close(figure)
