"""Bins of lengths: round numbers, each document in one of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.statistics.lengths import length_histogram, linear_edges, logarithmic_edges


def test_a_decade_has_ten_bins_of_equal_width_on_a_logarithmic_axis() -> None:
    edges = logarithmic_edges(100, 1000)
    assert edges == [100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1000, 1250]
    widths = [np.log10(above / below) for below, above in pairwise(edges)]
    assert widths == pytest.approx([0.1] * 11, abs=0.011)


def test_small_lengths_are_bins_of_their_own() -> None:
    assert logarithmic_edges(1, 30) == [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32]


@pytest.mark.parametrize(
    ("shortest", "longest", "edges"),
    [
        (3, 7, [3, 4, 5, 6, 7, 8]),
        (724, 724, [720, 740]),
        (1, 1, [1, 2]),
        (1_115_394, 1_115_394, [1_100_000, 1_150_000]),
        (205, 399, [200, 210, *range(220, 410, 10)]),
    ],
)
def test_lengths_that_differ_little_have_equal_bins(
    shortest: int, longest: int, edges: list[int]
) -> None:
    assert linear_edges(shortest, longest) == edges


lengths = st.lists(st.integers(1, 10**9), min_size=1, max_size=20)


@settings(deadline=None)
@given(train=lengths, val=lengths)
def test_each_document_is_in_the_bin_of_its_length(train: list[int], val: list[int]) -> None:
    splits = {"train": np.array(train), "val": np.array(val)}
    histogram = length_histogram(splits)
    edges = histogram.edges
    assert edges == sorted(set(edges))
    assert histogram.logarithmic == (max(train + val) >= 10 * min(train + val))
    for split, documents in splits.items():
        expected = [((documents >= a) & (documents < b)).sum() for a, b in pairwise(edges)]
        assert histogram.documents[split] == expected
        assert sum(expected) == len(documents)
    rows = histogram.rows()
    assert any(rows[0][1:])  # no empty bins on either side
    assert any(rows[-1][1:])
