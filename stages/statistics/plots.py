"""The pictures of a corpus: how long its documents are, and how often each token occurs."""

from functools import cache
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from stages.lib.plots import FAINT, INK, WARM

NAMED = 25  # tokens that are shown with their text


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


def draw_lengths(bins: list[tuple[int, int, int]], file: Path) -> None:
    """Documents by their length, on a logarithmic axis; `bins` as in lengths.csv."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    labels = [f"{shortest:,}" for shortest, _, _ in bins]
    train, val = [row[1] for row in bins], [row[2] for row in bins]
    axes.bar(labels, train, width=0.9, align="edge", color=FAINT, label="training")
    axes.bar(labels, val, width=0.9, align="edge", bottom=train, color=WARM, label="validation")
    axes.set(xlabel="tokens, from … to the next", ylabel="documents", title="Lengths of documents")
    axes.tick_params(axis="x", rotation=45)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)
    save(figure, file)


def draw_frequencies(zipf: list[tuple[int, int]], top: list[tuple[str, int]], file: Path) -> None:
    """Two panels: count by rank (Zipf's law is a straight line), and the most frequent tokens."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 5), width_ratios=(3, 2), layout="constrained"
    )
    ranks, counts = zip(*zipf, strict=True)
    left.loglog(ranks, counts, color=INK)
    left.set(xlabel="rank", ylabel="times it occurs", title="How often each token occurs")
    shown = top[:NAMED]
    right.barh(range(len(shown)), [count for _, count in shown], color=FAINT)
    right.set_yticks(range(len(shown)), [visible(text) for text, _ in shown], parse_math=False)
    right.invert_yaxis()
    right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.set(xlabel="times it occurs", title="The most frequent")
    save(figure, file)


def save(figure: Figure, file: Path) -> None:
    """Write a picture, the same bytes for the same figures."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(figure)
