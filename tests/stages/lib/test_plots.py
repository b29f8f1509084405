"""The look of all pictures: two themes that can be read by anyone, the same bytes every time."""

from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from stages.lib.plots import DARK, LIGHT, THEMES, Theme, save_plots, write_table

OKABE_ITO = {
    *("#000000", "#e69f00", "#56b4e9", "#009e73"),
    *("#f0e442", "#0072b2", "#d55e00", "#cc79a7"),
}


def luminance(color: str) -> float:
    """Return the relative luminance of a color (WCAG 2.2)."""
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color))
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors (WCAG 2.2), 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_black_on_white_has_the_contrast_that_wcag_gives() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", THEMES)
def test_contrast_suffices_on_the_background(theme: Theme) -> None:
    assert contrast(theme.ink, theme.background) >= 7
    lines = (theme.gray, theme.raw, theme.training, theme.validation, theme.green, theme.purple)
    for color in lines:
        assert contrast(color, theme.background) >= 3, color


@pytest.mark.parametrize("theme", THEMES)
def test_colors_are_of_a_palette_that_all_can_tell_apart(theme: Theme) -> None:
    colors = {theme.training, theme.validation, theme.green, theme.purple}
    assert len(colors) == 4
    assert colors <= OKABE_ITO


def draw(theme: Theme) -> Figure:
    """Draw a line and some text."""
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], [0, 1], color=theme.training)
    axes.set_title("a line")
    return figure


def test_each_picture_has_a_light_and_a_dark_version(tmp_path: Path) -> None:
    files = save_plots(draw, tmp_path / "run.png")
    assert [file.name for file in files] == ["run.png", "run-dark.png"]
    assert {file.name for file in tmp_path.iterdir()} == {"run.png", "run-dark.png"}
    for theme, file in zip((LIGHT, DARK), files, strict=True):
        corner = imread(file)[0, 0, :3]
        assert corner == pytest.approx(to_rgb(theme.background), abs=0.01)


def test_the_bytes_are_the_same_whatever_a_matplotlibrc_says(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in save_plots(draw, tmp_path / "run.png")]
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "savefig.bbox": "tight"}):
        again = [file.read_bytes() for file in save_plots(draw, tmp_path / "run.png")]
    assert first == again
    assert not plt.get_fignums()


def test_a_table_has_a_header_and_no_carriage_returns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ("step", "loss"), [(1, 2.5)])
    assert (tmp_path / "a.csv").read_bytes() == b"step,loss\n1,2.5\n"
