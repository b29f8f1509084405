"""The pictures of a corpus: what is drawn, and that anything can be."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from stages.lib.plots import THEMES
from stages.statistics import plots
from stages.statistics.lengths import Histogram, length_histogram
from stages.statistics.plots import draw_frequencies, draw_lengths, ticks

TOP = [("the", 9), (" a", 5)]


def has_color(picture: Any, color: str) -> bool:
    """Tell whether some pixels of a picture (height, width, channels) have a color."""
    distance = np.abs(picture[..., :3] - np.array(to_rgb(color))).max(axis=-1)
    return bool((distance < 0.01).sum() > 20)


def histogram(train: list[int], val: list[int]) -> Histogram:
    """Return the histogram of documents of these lengths."""
    return length_histogram({"train": np.array(train), "val": np.array(val)})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keep the figure of each theme, which is then not written."""
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save_plots", lambda draw, _: kept.extend(map(draw, THEMES)))
    yield kept
    for figure in kept:
        plt.close(figure)


def test_splits_of_any_size_are_compared_by_shares(figures: list[Figure]) -> None:
    draw_lengths(histogram([30] * 300 + [300] * 100, [30, 30, 30, 300]), Path("lengths.png"))
    assert len(figures) == len(THEMES)
    for figure in figures:  # the same data in each theme
        [axes] = figure.axes
        *bars, outline = axes.patches
        heights = [bar.get_height() for bar in bars]
        assert [height for height in heights if height] == [0.75, 0.25]
        assert outline.get_data().values.tolist() == heights
        legend = axes.get_legend()
        assert legend is not None
        names = [text.get_text() for text in legend.get_texts()]
        assert names == ["training (400 documents)", "validation (4 documents)"]
        assert axes.get_xscale() == "log"


def test_one_document_is_said_to_be_one(figures: list[Figure]) -> None:
    draw_lengths(histogram([1_000_000], [100_001]), Path("lengths.png"))
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["training (1 document)", "validation (1 document)"]
    assert figures[0].axes[0].get_xscale() == "linear"


@pytest.mark.parametrize(
    ("shortest", "longest", "labels"),
    [
        (724, 60_000, [1000, 2000, 5000, 10_000, 20_000, 50_000]),
        (2, 41, [2, 5, 10, 20, 50]),
        (3, 400_000, [10, 100, 1000, 10_000, 100_000]),
        (205, 399, [200, 220, 240, 260, 280, 300, 320, 340, 360, 380, 400]),
        (724, 724, [720, 740]),
    ],
)
def test_labels_are_round_numbers_at_edges_of_bins(
    figures: list[Figure], shortest: int, longest: int, labels: list[int]
) -> None:
    lengths = histogram([shortest], [longest])
    assert ticks(lengths) == labels
    assert set(labels) <= set(lengths.edges)
    draw_lengths(lengths, Path("lengths.png"))
    drawn = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert drawn == [f"{label:,}" for label in labels]
    assert not any(label.get_text() for label in figures[0].axes[0].get_xticklabels(minor=True))


def test_the_curve_and_the_most_frequent_tokens_are_the_same_in_each_theme(
    figures: list[Figure],
) -> None:
    draw_frequencies([(1, 9), (2, 5)], TOP, Path("frequencies.png"))
    for figure in figures:
        left, right = figure.axes
        assert left.lines[0].get_xydata().tolist() == [[1, 9], [2, 5]]
        assert [bar.get_width() for bar in right.patches] == [9, 5]
        assert [label.get_text() for label in right.get_yticklabels()] == ["the", "␣a"]


def test_the_pictures_show_both_splits_and_the_curve(tmp_path: Path) -> None:
    draw_lengths(histogram([30, 300], [40]), tmp_path / "lengths.png")
    draw_frequencies([(1, 9), (2, 5)], TOP, tmp_path / "frequencies.png")
    for theme in THEMES:
        lengths = imread(tmp_path / f"lengths{theme.suffix}.png")
        frequencies = imread(tmp_path / f"frequencies{theme.suffix}.png")
        assert lengths.shape[:2] == (800, 1800)
        assert has_color(lengths, theme.training)
        assert has_color(lengths, theme.validation)
        assert has_color(frequencies, theme.training)
        assert not has_color(frequencies, theme.validation)


def test_any_token_can_be_drawn(tmp_path: Path) -> None:
    top = [(text, 9) for text in ("$x_1$", "$", "語", "\x1b", "\n", "", "\ufffd", " é")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_frequencies([(1, 9), (2, 9)], top, tmp_path / "frequencies.png")
        draw_lengths(histogram([1], [1]), tmp_path / "lengths.png")
    for theme in THEMES:
        file = tmp_path / f"frequencies{theme.suffix}.png"
        assert has_color(imread(file), theme.training)
