"""The style that all plots share, and the tables behind them for `dvc plots`.

Each plot is written twice: for pages with a light and with a dark background. The colors are
those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any color vision tell
apart, and the backgrounds and grays are GitHub's. What carries meaning has a contrast of at least
3:1 with its background and text one of 4.5:1 (WCAG 2.2, criteria 1.4.11 and 1.4.3), and differs
from the rest in dashes, markers or place as well.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

DPI = 200  # of 9 inches: twice the width that GitHub gives an image, for screens of high density


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colors of a plot by what they stand for; `suffix` ends the names of its files."""

    suffix: str
    background: str
    ink: str  # text and axes
    gray: str  # what is there to compare with
    raw: str
    training: str
    validation: str
    green: str
    purple: str

    def halo(self, linewidth: float) -> withStroke:
        """Return the effect that sets a line of this width apart from what is behind it."""
        return withStroke(linewidth=linewidth + 1.5, foreground=self.background)

    def rc(self) -> dict[str, Any]:
        """Return matplotlib's settings for this theme."""
        return {
            "agg.path.chunksize": 20_000,  # a curve of millions of updates is too long for one path
            "axes.edgecolor": self.gray,
            "axes.facecolor": self.background,
            "axes.labelcolor": self.ink,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "figure.facecolor": self.background,
            "legend.borderpad": 0.2,
            "legend.edgecolor": "none",
            "legend.framealpha": 0.9,  # lines may pass behind it
            "savefig.facecolor": self.background,
            "text.color": self.ink,
            "xtick.color": self.gray,
            "xtick.labelcolor": self.ink,
            "ytick.color": self.gray,
            "ytick.labelcolor": self.ink,
        }


LIGHT = Theme(
    suffix="",
    background="#ffffff",
    ink="#1f2328",
    gray="#6e7681",
    raw="#8b949e",
    training="#0072b2",  # blue
    validation="#d55e00",  # vermillion
    green="#009e73",
    purple="#cc79a7",
)
DARK = Theme(
    suffix="-dark",
    background="#0d1117",
    ink="#e6edf3",
    gray="#8b949e",
    raw="#6e7681",
    training="#56b4e9",  # sky blue
    validation="#e69f00",  # orange
    green="#009e73",
    purple="#cc79a7",
)
THEMES = (LIGHT, DARK)


def write_table(file: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write a CSV file with a header."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def save_plots(draw: Callable[[Theme], Figure], file: Path) -> list[Path]:
    """Write a plot in each theme, `run.png` and `run-dark.png`, and return the files.

    The same data give the same bytes, whatever the user's matplotlibrc says.
    """
    files = [file.with_stem(file.stem + theme.suffix) for theme in THEMES]
    for theme, themed in zip(THEMES, files, strict=True):
        with plt.style.context(["default", theme.rc()]):
            figure = draw(theme)
            figure.savefig(themed, dpi=DPI, metadata={"Software": None})
            plt.close(figure)
    return files
