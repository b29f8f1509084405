"""Histogram of the lengths of documents, in bins whose edges are round numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFERRED = (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)  # Renard's series R10, ISO 3
STEPS = (1, 2, 5)  # and ten times, a hundred times as much
DECADES = 18  # more than 64 bits hold
BINS = 20  # of equal width, about
NARROWEST = 50  # of the longest document, so that a single one has a bin that can be seen


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Documents of each split by length; bin `i` holds the lengths from edges[i] to edges[i+1]-1.

    `logarithmic` tells on which axis the bins are about equally wide.
    """

    edges: list[int]  # (bins + 1,)
    documents: dict[str, list[int]]  # (bins,) for each split
    logarithmic: bool

    def rows(self) -> list[tuple[int, ...]]:
        """Return (shortest length, documents of each split) for each bin."""
        return list(zip(self.edges[:-1], *self.documents.values(), strict=True))


def logarithmic_edges(shortest: int, longest: int) -> list[int]:
    """Return edges 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, ...: ten bins for each decade."""
    numbers = {round(number * 10**decade) for decade in range(DECADES) for number in PREFERRED}
    edges = sorted(numbers)
    first, stop = np.searchsorted(edges, [max(shortest, 1), longest], side="right").tolist()
    return edges[first - 1 : stop + 1]


def linear_edges(shortest: int, longest: int) -> list[int]:
    """Return edges of equal bins of 1, 2, 5, 10, 20, ... tokens."""
    least = max((longest - shortest) / BINS, longest / NARROWEST)
    steps = (step * 10**decade for decade in range(DECADES) for step in STEPS)
    width = next(step for step in steps if step >= least)
    return list(range(shortest // width * width, longest + width + 1, width))


def length_histogram(lengths: Mapping[str, NDArray[np.integer[Any]]]) -> Histogram:
    """Count the documents of each split, (documents,) tokens of each, by length.

    Lengths that differ by a factor of ten or more are counted in logarithmic bins.
    """
    shortest = min(int(of_split.min()) for of_split in lengths.values())
    longest = max(int(of_split.max()) for of_split in lengths.values())
    logarithmic = longest >= 10 * shortest
    edges = (logarithmic_edges if logarithmic else linear_edges)(shortest, longest)
    documents = {
        split: np.histogram(of_split, edges)[0].tolist() for split, of_split in lengths.items()
    }
    return Histogram(edges=edges, documents=documents, logarithmic=logarithmic)
