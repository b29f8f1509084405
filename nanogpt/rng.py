"""Stateless random numbers: hashes of what they are for, so there is no state to save."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = TypeVar("Words", int, NDArray[Any])

MASK = 2**64 - 1


def splitmix(state: Words) -> Words:
    """Apply one SplitMix64 step (Steele et al. 2014) to an int or to an array of uint64."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def mix(*values: int) -> int:
    """Hash integers to 64 well-mixed bits."""
    state = 0
    for value in values:
        state = splitmix(state + value)
    return state


def permute(indices: NDArray[np.uint64], size: int, key: int) -> NDArray[np.uint64]:
    """Map `indices` by a permutation of range(size) that `key` chooses, without storing it.

    A four-round Feistel network on the smallest even number of bits that holds `size`, applied
    until the result is inside the range (cycle walking, Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    images = feistel(indices, half, key)
    while len(outside := np.flatnonzero(images >= size)):
        images[outside] = feistel(images[outside], half, key)
    return images


def feistel(indices: NDArray[Any], half: int, key: int) -> NDArray[Any]:
    """Permute the numbers of 2 * half bits in an array of uint64."""
    mask = (1 << half) - 1
    left, right = indices >> half, indices & mask
    for round_number in range(4):
        left, right = right, left ^ (splitmix(mix(key, round_number) + right) & mask)
    return (left << half) | right
