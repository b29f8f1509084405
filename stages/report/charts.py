"""Charts as geometry: the template draws it as SVG, and the style sheet gives it its colors.

So one drawing serves light, dark and printed pages, its text is text, and the same data give the
same bytes. A curve of any length becomes a line of at most two points for each pixel of width,
which looks the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.plots import MARKERS, padded, spread

STEPS = (1, 2, 2.5, 5, 10)  # between two ticks, times a power of ten
ROOM = 0.75  # of the distance between ticks that was asked for: they may be this close
EDGE = 1e-9  # of a step: a tick at the end of an axis belongs to it, however it is rounded
SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
TICK_WIDTH, TICK_HEIGHT = 80, 44  # pixels between two ticks, about
CHARACTER = 6.6  # pixels, about: of the labels at the left
LABEL_HEIGHT = 16  # pixels between two names of rules
TOP, BOTTOM, GAP = 12, 26, 8  # pixels around the plot
DIGITS = 3  # after the point of a label; a smaller number has an exponent

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The range of an axis."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def around(cls, *values: Values) -> "Axis":
        """Return an axis that shows all values, with some room."""
        numbers = np.concatenate(values)
        low, high = padded(numbers[np.isfinite(numbers)].tolist())
        return cls(low=low, high=high)

    def place(self, values: Values, start: float, stop: float) -> Values:
        """Return where values are on an axis that goes from pixel `start` to pixel `stop`."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return start + (values - low) / (high - low) * (stop - start)

    def ticks(self, n: int) -> dict[float, str]:
        """Return about n round values and their labels."""
        if self.logarithmic:
            return self.logarithmic_ticks(n)
        least = (self.high - self.low) / max(1, n) * ROOM
        power = 10.0 ** math.floor(math.log10(least))
        step = next(size * power for size in STEPS if size * power >= least)
        first, last = math.ceil(self.low / step - EDGE), math.floor(self.high / step + EDGE)
        digits = next(d for d in range(20) if math.isclose(round(step, d), step, rel_tol=1e-6))
        return {i * step: tick_label(i * step, digits) for i in range(first, last + 1)}

    def logarithmic_ticks(self, n: int) -> dict[float, str]:
        """Return powers of ten, thinned if there are many; with 2 and 5 times each if few."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        inside = [power for power in powers if self.low <= power <= self.high]
        if len(inside) > n:
            inside = inside[:: math.ceil(len(inside) / n)]
        elif 3 * len(inside) <= n or len(inside) < 2:
            several = [size * power for power in powers for size in (1, 2, 5)]
            inside = [value for value in several if self.low <= value <= self.high]
        return {value: tick_label(value) for value in inside}


def tick_label(value: float, digits: int | None = None) -> str:
    """Return a value as the label of an axis, such as 1.5M, 0.50 or 2e-5."""
    for size, suffix in SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    if digits is None or digits > DIGITS:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points; its style is a class of the style sheet."""

    style: str
    x: Values
    y: Values
    dots: bool = False  # on some of its points, which show their values under the pointer
    area: bool = False  # filled down to the axis

    @property
    def classes(self) -> str:
        """Return the classes of the style sheet that apply to the line."""
        return f"{self.style} area" if self.area else self.style


@dataclass(frozen=True)
class Rule:
    """A named horizontal line."""

    style: str
    name: str
    y: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines and rules on two axes."""

    title: str  # read out for those who do not see it
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    lines: Sequence[Line]
    rules: Sequence[Rule] = ()


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point of a line that shows its values under the pointer."""

    style: str
    x: str
    y: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Label:
    """A rule at the height `y`, and its name at the height `label`."""

    style: str
    name: str
    y: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A chart at one size, in pixels; everything but width, height and left is inside the plot."""

    chart: Chart
    width: int
    height: int
    left: float
    top: int
    plot_width: float
    plot_height: float
    x_ticks: Sequence[tuple[str, str]]  # place and label
    y_ticks: Sequence[tuple[str, str]]
    paths: Sequence[tuple[str, str]]  # style and data
    dots: Sequence[Dot]
    rules: Sequence[Label]


def draw(chart: Chart, width: int, height: int) -> Drawing:
    """Draw a chart at one size, the names of its rules at the right."""
    plot_height = height - TOP - BOTTOM
    y_ticks = chart.y.ticks(plot_height // TICK_HEIGHT)
    left = GAP + CHARACTER * max(map(len, y_ticks.values()), default=0)
    names = max((len(rule.name) for rule in chart.rules), default=0)
    right = 3 * GAP + CHARACTER * names if names else GAP
    plot_width = width - left - right
    x_ticks = chart.x.ticks(int(plot_width) // TICK_WIDTH)
    return Drawing(
        chart=chart,
        width=width,
        height=height,
        left=left,
        top=TOP,
        plot_width=plot_width,
        plot_height=plot_height,
        x_ticks=placed(x_ticks, chart.x, 0, plot_width),
        y_ticks=placed(y_ticks, chart.y, plot_height, 0),
        paths=[
            (line.classes, path_of(line, chart, plot_width, plot_height)) for line in chart.lines
        ],
        dots=[
            dot
            for line in chart.lines
            if line.dots
            for dot in dots_of(line, chart, plot_width, plot_height)
        ],
        rules=labels_of(chart, plot_height),
    )


def placed(ticks: dict[float, str], axis: Axis, start: float, stop: float) -> list[tuple[str, str]]:
    """Return the place and the label of each tick."""
    places = axis.place(np.array(list(ticks)), start, stop).tolist()
    return [(pixels(place), label) for place, label in zip(places, ticks.values(), strict=True)]


def path_of(line: Line, chart: Chart, width: float, height: float) -> str:
    """Return a line as the data of an SVG path, thinned to what can be seen."""
    shown = np.isfinite(line.x) & np.isfinite(line.y)
    x = chart.x.place(line.x[shown], 0, width)
    y = chart.y.place(line.y[shown], height, 0)
    kept = thinned(y, math.ceil(width))
    points = [f"{pixels(a)},{pixels(b)}" for a, b in zip(x[kept], y[kept], strict=True)]
    if line.area and points:
        points = [f"{pixels(x[0])},{pixels(height)}", *points, f"{pixels(x[-1])},{pixels(height)}"]
    return f"M{' '.join(points)}" if points else ""


def thinned(values: Values, n: int) -> list[int]:
    """Return the indices of the least and the greatest value in each of n parts of a curve.

    All, if there are fewer.
    """
    if len(values) <= 2 * n:
        return list(range(len(values)))
    edges = np.linspace(0, len(values), n + 1).astype(int).tolist()
    return [
        start + index
        for start, stop in pairwise(edges)
        for index in sorted({int(values[start:stop].argmin()), int(values[start:stop].argmax())})
    ]


def dots_of(line: Line, chart: Chart, width: float, height: float) -> list[Dot]:
    """Return evenly spaced points of a line, the last among them."""
    x = chart.x.place(line.x, 0, width)
    y = chart.y.place(line.y, height, 0)
    between = max(1, round(len(x) / MARKERS))
    return [
        Dot(
            style=line.style,
            x=pixels(x[i]),
            y=pixels(y[i]),
            title=f"{line.y[i]:.3f} after {line.x[i]:,.0f} {chart.x_label}",
        )
        for i in range((len(x) - 1) % between, len(x), between)
        if 0 <= y[i] <= height
    ]


def labels_of(chart: Chart, height: float) -> list[Label]:
    """Return the rules of a chart with their names far enough apart."""
    if not chart.rules:
        return []
    shares = chart.y.place(np.array([rule.y for rule in chart.rules]), 0, 1).tolist()
    apart = spread(shares, LABEL_HEIGHT / height)
    return [
        Label(
            style=rule.style,
            name=rule.name,
            y=pixels(height * (1 - share)),
            label=pixels(height * (1 - place)),
        )
        for rule, share, place in zip(chart.rules, shares, apart, strict=True)
    ]


def stairs(edges: Values, heights: Values) -> tuple[Values, Values]:
    """Return the corners of a histogram whose bin i lies between edges[i] and edges[i+1]."""
    return np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)


def pixels(place: float) -> str:
    """Return a place in tenths of a pixel."""
    return f"{place:.1f}".removesuffix(".0")
