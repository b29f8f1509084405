"""Random numbers as functions of what they are for: no generator, no state to save."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = TypeVar("Words", int, NDArray[Any])

MASK = 2**64 - 1


def splitmix(state: Words) -> Words:
    """One SplitMix64 step (Steele et al. 2014) of a number, or of each in an array of uint64."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def mix(*values: int) -> int:
    """64 well-mixed bits of some integers."""
    state = 0
    for value in values:
        state = splitmix(state + value)
    return state


def permute(indices: NDArray[np.uint64], size: int, key: int) -> NDArray[np.uint64]:
    """The images of `indices` under a permutation of range(size) chosen by `key`, in O(1) memory.

    A four-round Feistel network on the smallest even number of bits that holds `size`, walked until
    it lands inside the range (Black and Rogaway 2002, cycle walking).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    images = feistel(indices, half, key)
    while len(outside := np.flatnonzero(images >= size)):
        images[outside] = feistel(images[outside], half, key)
    return images


def feistel(indices: NDArray[Any], half: int, key: int) -> NDArray[Any]:
    """A permutation of the numbers of 2 * half bits, in an array of uint64."""
    mask = (1 << half) - 1
    left, right = indices >> half, indices & mask
    for round_number in range(4):
        left, right = right, left ^ (splitmix(mix(key, round_number) + right) & mask)
    return (left << half) | right
