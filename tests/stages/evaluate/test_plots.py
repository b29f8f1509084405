"""The picture of a run: the moving mean, labels that do not touch, the same data in each theme."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from stages.evaluate import plots
from stages.evaluate.plots import (
    draw_bars,
    draw_curves,
    draw_legend,
    draw_lines,
    draw_run,
    half_window,
    moving_mean,
    spread,
)
from stages.lib.plots import DARK, LIGHT, THEMES, Theme, write_table

LOSSES = {"uniform": 7.6, "unigram": 6.5, "bigram": 4.72, "kneser_ney": 4.26, "ppmd": 3.91}
RESULT: dict[str, Any] = {
    "val_loss": 4.1,
    "bits_per_byte": 2.05,
    "baselines": {
        name: {"val_loss": loss, "bits_per_byte": loss / 2} for name, loss in LOSSES.items()
    },
}
CURVE = (list(range(1, 90)), [8 / i**0.2 + 0.2 * (i % 2) for i in range(1, 90)])


def test_the_mean_is_centred() -> None:
    values = [float(i % 7) for i in range(100)]
    assert moving_mean(values)[50] == pytest.approx(np.mean(values[40:61]))
    assert moving_mean(values)[89] == pytest.approx(np.mean(values[79:]))


def test_at_the_start_the_mean_is_of_fewer() -> None:
    values = [float(i * i) for i in range(60)]
    assert moving_mean(values)[:3] == values[:3]
    assert moving_mean(values)[9] == pytest.approx(np.mean(values[6:13]))


def test_at_the_end_it_is_the_line_through_the_last_window() -> None:
    values = np.random.default_rng(0).normal(size=100)
    slope, height = np.polyfit(range(79, 100), values[79:], 1)
    line = [height + slope * i for i in range(90, 100)]
    assert moving_mean(values.tolist())[90:] == pytest.approx(line)


@pytest.mark.parametrize("n", [*range(12), 40, 80, 5000])
def test_a_straight_line_stays_from_end_to_end(n: int) -> None:
    line = [5 - 0.01 * i for i in range(n)]
    assert moving_mean(line) == pytest.approx(line)


def test_a_steep_start_does_not_lag() -> None:
    falling = [2 + 5 * math.exp(-i / 5) for i in range(80)]
    assert max(abs(s - v) for s, v in zip(moving_mean(falling), falling, strict=True)) < 0.1


def test_the_window_grows_with_the_run() -> None:
    assert [half_window(n) for n in (0, 1, 4, 5, 41, 1000, 200_000)] == [0, 0, 0, 1, 10, 10, 2000]


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


@pytest.fixture
def axes() -> Any:
    """Axes of about the size of a panel."""
    figure, axes = plt.subplots(figsize=(4.5, 4))
    yield axes
    plt.close(figure)


def test_the_legend_names_the_raw_line_and_the_mean(axes: Axes) -> None:
    draw_curves(axes, CURVE, ([40, 80], [4.4, 4.1]), LIGHT)
    draw_legend(axes, [])
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["training, each update", "training, mean of 21 updates", "validation"]
    raw, mean, val = axes.lines
    assert list(raw.get_ydata()) == CURVE[1]
    assert list(mean.get_ydata()) == moving_mean(CURVE[1])
    assert [list(line.get_xdata()) for line in axes.lines] == [CURVE[0], CURVE[0], [40, 80]]
    assert (raw.get_marker(), mean.get_marker(), val.get_marker()) == ("None", "None", "o")


@pytest.mark.parametrize(
    ("ends", "top"),
    [
        ([], 1.0),
        ([0.97, 0.4], 0.95),
        ([0.85, 0.3], 0.83),
        ([0.97, 0.75, 0.4], 0.73),
        ([0.97, 0.85, 0.75, 0.65, 0.55], 1.0),  # no room between any
    ],
)
def test_the_legend_is_between_the_lines(axes: Axes, ends: list[float], top: float) -> None:
    draw_curves(axes, CURVE, ([40, 80], [4.4, 4.1]), LIGHT)
    draw_legend(axes, ends)
    box = axes.get_legend().get_window_extent().transformed(axes.transAxes.inverted())
    assert box.y1 == pytest.approx(top)
    assert box.height < plots.LEGEND


def test_of_a_run_of_a_few_updates_the_raw_line_is_all(axes: Axes) -> None:
    draw_curves(axes, ([1, 2], [5.0, 4.0]), ([2], [4.1]), LIGHT)
    assert [line.get_label() for line in axes.lines] == ["training, each update", "validation"]


def test_all_but_the_first_hundredth_is_in_the_panel(axes: Axes) -> None:
    steps = list(range(1, 1001))
    losses = [9.0 if step <= 10 else 4 - step / 1000 for step in steps]
    losses[500] = 5.5  # and no outlier is left out
    draw_curves(axes, (steps, losses), ([500, 1000], [3.6, 3.2]), LIGHT)
    low, high = axes.get_ylim()
    assert low < 3.0
    assert 5.5 < high < 6


@pytest.mark.parametrize("evaluations", [1, 5, 20, 333])
def test_markers_of_the_validation_leave_its_line_to_be_seen(axes: Axes, evaluations: int) -> None:
    draw_curves(axes, CURVE, (list(range(evaluations)), [4.0] * evaluations), LIGHT)
    start, between = axes.lines[-1].get_markevery()
    marked = list(range(evaluations))[start::between]
    assert marked[-1] == evaluations - 1
    assert min(evaluations, 15) <= len(marked) <= 30


def test_names_of_lines_do_not_touch(axes: Axes) -> None:
    axes.set_ylim(2, 8)
    draw_lines(axes, {"unigram": 4.0, "bigram": 4.01, "kneser_ney": 3.99, "ppmd": 4.02}, LIGHT)
    assert [text.get_text() for text in axes.texts] == ["unigram", "bigram", "Kneser-Ney", "PPMd"]
    heights = sorted(text.get_position()[1] for text in axes.texts)
    between = [
        (above - below) * axes.get_window_extent().height for below, above in pairwise(heights)
    ]
    assert min(between) >= axes.texts[0].get_fontsize() * axes.figure.dpi / 72


def test_lines_outside_of_the_curves_are_shown_whole(axes: Axes) -> None:
    axes.set_ylim(4, 5)
    draw_lines(axes, LOSSES, LIGHT)
    low, high = axes.get_ylim()
    assert low < LOSSES["ppmd"]
    assert LOSSES["unigram"] < high < LOSSES["uniform"]  # which would leave the curves no room
    assert sorted(line.get_ydata()[0] for line in axes.lines) == [3.91, 4.26, 4.72, 6.5]


@pytest.mark.parametrize("theme", THEMES)
def test_baselines_differ_by_their_dashes(axes: Axes, theme: Theme) -> None:
    dashes = {str(plots.baseline_style(theme, name)["linestyle"]) for name in list(LOSSES)[2:]}
    assert len(dashes) == 3


def test_bars_have_names_values_and_the_same_lines(axes: Axes) -> None:
    draw_bars(axes, RESULT, LIGHT)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[-3:] == ["Kneser-Ney  2.13", "PPMd  1.96", "this model  2.05"]
    assert [bar.get_width() for bar in axes.patches] == [*(n / 2 for n in LOSSES.values()), 2.05]
    assert [line.get_xdata()[0] for line in axes.lines] == [4.26 / 2, 3.91 / 2]


def test_a_model_that_learns_as_it_reads_has_a_bar_of_its_own(axes: Axes) -> None:
    draw_bars(axes, {**RESULT, "adaptive": {"bits_per_byte": 1.9}}, LIGHT)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[-2:] == ["this model  2.05", "this model, adaptive  1.90"]


def has_color(picture: Any, color: str) -> bool:
    """Tell whether some pixels of a picture (height, width, channels) have a color."""
    distance = np.abs(picture[..., :3] - np.array(to_rgb(color))).max(axis=-1)
    return bool((distance < 0.01).sum() > 20)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """The curves of a little run."""
    train, val = tmp_path / "train.csv", tmp_path / "val.csv"
    write_table(train, ("step", "loss"), zip(*CURVE, strict=True))
    write_table(val, ("step", "loss"), [(40, 4.4), (80, 4.1)])
    return train, val


def test_both_panels_show_curves_and_the_best_baselines(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("run", "again"):
        draw_run(*tables, RESULT, tmp_path / f"{name}.png")
    for theme in (LIGHT, DARK):
        drawn, again = (tmp_path / f"{name}{theme.suffix}.png" for name in ("run", "again"))
        assert drawn.read_bytes() == again.read_bytes()
        picture = imread(drawn)
        assert picture.shape[:2] == (800, 1800)
        left, right = picture[:, :950], picture[:, 950:]
        colors = (theme.training, theme.validation, theme.green, theme.purple, theme.raw)
        assert all(has_color(left, color) for color in colors)
        assert all(has_color(right, theme_color) for theme_color in (theme.training, theme.green))
        assert not has_color(right, theme.validation)


def drawn_data(figure: Figure) -> list[Any]:
    """Return all that a figure shows but for its colors."""
    shown: list[Any] = []
    for panel in figure.axes:
        shown += [(line.get_label(), line.get_xydata().tolist()) for line in panel.lines]
        shown += [patch.get_extents().bounds for patch in panel.patches]
        shown += [text.get_text() for text in [*panel.texts, *panel.get_yticklabels()]]
        shown += [panel.get_xlim(), panel.get_ylim(), panel.get_title("left")]
    return shown


def test_both_themes_show_the_same_data(
    tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def keep(draw: Any, file: Path) -> None:
        for theme in THEMES:
            figure = draw(theme)
            shown.append(drawn_data(figure))
            plt.close(figure)

    monkeypatch.setattr(plots, "save_plots", keep)
    draw_run(*tables, RESULT, tmp_path / "run.png")
    light, dark = shown
    assert light == dark
    assert any(label == "validation" for label, _ in light[:3])
    draw_run(*tables, {**RESULT, "bits_per_byte": 1.0}, tmp_path / "run.png")
    assert shown[2] != light
