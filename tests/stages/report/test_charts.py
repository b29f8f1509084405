"""Charts as geometry: scales, ticks, and lines thinned to what can be seen."""

import numpy as np
import pytest

from stages.report.charts import Axis, Chart, Line, Rule, draw, thinned


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 2_048_000, ["0", "500K", "1M", "1.5M", "2M"]),
        (3.3, 6.6, ["4", "5", "6"]),
        (1.95, 2.25, ["2.0", "2.1", "2.2"]),
        (0, 0.0006, ["0", "0.0002", "0.0004", "0.0006"]),
        (0, 0.00006, ["0", "2e-5", "4e-5", "6e-5"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert list(Axis(low=low, high=high).ticks(4).values()) == labels


def test_ticks_of_a_logarithmic_axis() -> None:
    assert list(Axis(low=1, high=2000, logarithmic=True).ticks(5).values()) == [
        *("1", "10", "100", "1K"),
    ]
    assert list(Axis(low=15, high=90, logarithmic=True).ticks(5).values()) == ["20", "50"]


def test_a_thinned_curve_keeps_its_peaks_and_its_order() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321], values[777] = 99, -99
    kept = thinned(values, 300)
    assert len(kept) <= 600
    assert kept == sorted(set(kept))
    assert {777, 54_321} <= set(kept)
    assert thinned(values[:600], 300) == list(range(600))


def test_lines_rules_and_dots_are_where_their_values_are() -> None:
    x = np.array([0.0, 50.0, 100.0])
    line = Line(style="validation", x=x, y=np.array([4.0, np.nan, 2.0]), dots=True)
    chart = Chart(
        title="a chart",
        x=Axis(low=0, high=100),
        y=Axis(low=2, high=4),
        x_label="tokens",
        y_label="loss",
        lines=[line],
        rules=[Rule("green", "one", 3.0), Rule("green", "other", 3.01)],
    )
    drawing = draw(chart, 400, 238)
    ((style, path),) = drawing.paths
    assert (style, path) == ("validation", f"M0,0 {drawing.plot_width:.1f},200")
    one, other = drawing.rules
    assert float(one.y) == 100
    assert float(one.label) - float(other.label) == pytest.approx(16, abs=0.11)  # not on each other
    assert [dot.title for dot in drawing.dots] == ["4.000 after 0 tokens", "2.000 after 100 tokens"]


def test_an_axis_around_equal_values_has_a_height() -> None:
    axis = Axis.around(np.array([2.0, np.inf, 2.0]))
    assert axis.low < 2 < axis.high
    assert axis.ticks(2)
