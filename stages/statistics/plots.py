"""The plots of a corpus: how long its documents are, and how often each token occurs."""

import math
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from stages.lib.plots import Theme, save_plots
from stages.statistics.lengths import Histogram

NAMED = 25  # tokens that are shown with their text
LABELS = 12  # of an axis of lengths: more would touch


@cache
def drawable() -> frozenset[int]:
    """The characters that matplotlib's own font has; it draws a box for any other."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def visible(text: str) -> str:
    """A token's text as a label: spaces as ␣, what cannot be drawn as an escape."""
    return "".join(
        character
        if character.isprintable() and ord(character) in drawable()
        else character.encode("unicode_escape").decode()
        for character in text.replace(" ", "␣")
    )


def ticks(lengths: Histogram) -> list[int]:
    """Return the edges of bins that are labeled, so many as have room.

    On a logarithmic axis those are 1, 2, 5, 10, 20, 50, ..., and for many decades 1, 10, 100, ...
    """
    first, last = lengths.edges[0], lengths.edges[-1]
    if not lengths.logarithmic:
        return lengths.edges[:: math.ceil((len(lengths.edges) - 1) / LABELS)]
    steps = (1, 2, 5) if last <= 1000 * first else (1,)
    return [edge for edge in lengths.edges if int(str(edge).rstrip("0")) in steps]


def draw_lengths(lengths: Histogram, file: Path) -> None:
    """Draw the share of the documents of each split by length, in each theme."""

    def draw(theme: Theme) -> Figure:
        figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
        train, val = lengths.documents["train"], lengths.documents["val"]
        bars = axes.bar(
            lengths.edges[:-1],
            shares(train),
            np.diff(lengths.edges),
            align="edge",
            color=theme.training,
            edgecolor=theme.background,
            label=f"training ({documents(train)})",
        )
        outline = axes.stairs(
            shares(val),
            lengths.edges,
            color=theme.validation,
            linewidth=2,
            label=f"validation ({documents(val)})",
            path_effects=[theme.halo(2)],
        )
        if lengths.logarithmic:
            axes.set_xscale("log")
        axes.set_xticks(ticks(lengths), [f"{edge:,}" for edge in ticks(lengths)])
        axes.set_xticks(lengths.edges, minor=True)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="tokens in a document", ylabel="share of the documents of the split")
        axes.set_title("Document lengths")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, None)
        axes.legend(handles=[bars, outline])
        return figure

    save_plots(draw, file)


def shares(counts: list[int]) -> list[float]:
    """Return counts as shares of their sum; a split of no documents has none anywhere."""
    return [count / max(1, sum(counts)) for count in counts]


def documents(counts: list[int]) -> str:
    """Return how many documents there are, in words."""
    n = sum(counts)
    return f"{n:,} document{'s' if n != 1 else ''}"


def draw_frequencies(zipf: list[tuple[int, int]], top: list[tuple[str, int]], file: Path) -> None:
    """Draw two panels in each theme: count by rank, and the most frequent tokens.

    On logarithmic axes a text that follows Zipf's law is a straight line in the first.
    """
    ranks, counts = zip(*zipf, strict=True)
    shown = top[:NAMED]

    def draw(theme: Theme) -> Figure:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9, 5), width_ratios=(3, 2), layout="constrained"
        )
        left.loglog(ranks, counts, color=theme.training, linewidth=2)
        left.set(xlabel="rank of the token", ylabel="occurrences", title="Token frequencies")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        right.barh(range(len(shown)), [count for _, count in shown], color=theme.training)
        labels = [visible(text) for text, _ in shown]
        right.set_yticks(range(len(shown)), labels, parse_math=False, va="center_baseline")
        right.tick_params(axis="y", length=0)
        right.invert_yaxis()
        right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        right.xaxis.set_major_formatter("{x:,.0f}")
        right.set(xlabel="occurrences", title="Most frequent tokens")
        return figure

    save_plots(draw, file)
