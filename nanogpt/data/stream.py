"""Token files and the order in which training reads them.

A split is a list of `.npy` files, memory-mapped and read as one long stream. Window i of epoch e is
a pure function of (seed, e, i): no state to save, nothing shuffled in memory, and the same order
for any number of processes. Windows do not overlap within an epoch, none is skipped or repeated,
and each epoch lays them at another offset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]
Words = TypeVar("Words", int, NDArray[Any])

MASK = 2**64 - 1


class TokenStream:
    """The tokens of one split: several memory-mapped arrays of one type seen as one.

    Raises ValueError at arrays of different types.
    """

    def __init__(self, shards: Sequence[Tokens]) -> None:
        if len({shard.dtype for shard in shards}) > 1:
            raise ValueError("the files of a split hold ids of different types; shard them again")
        self.shards = list(shards)
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])  # (shards + 1,)
        self.bytes = [shard.view(np.uint8).data for shard in self.shards]

    @classmethod
    def open(cls, files: Sequence[Path]) -> "TokenStream":
        """Memory-map `.npy` files of token ids, in the order given."""
        return cls([np.load(file, mmap_mode="r") for file in files])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [start, stop), across files where need be."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while start < stop:
            base, end = int(self.starts[first]), min(stop, int(self.starts[first + 1]))
            parts.append(self.shards[first][start - base : end - base])
            start, first = end, first + 1
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)

    def read_rows(self, starts: NDArray[np.int64], length: int) -> Tokens:
        """(len(starts), length) tokens from each start on, in the type of the files.

        Slices of memory joined in one call: the fastest way that does not slow down with the number
        of files (docs/lab-notes.md).
        """
        dtype = self.shards[0].dtype
        files = np.searchsorted(self.starts, starts, side="right") - 1
        within = (starts - self.starts[files]) * dtype.itemsize
        size = length * dtype.itemsize
        parts = [
            self.bytes[file][first : first + size]
            for file, first in zip(files.tolist(), within.tolist(), strict=True)
        ]
        for row in np.flatnonzero(starts + length > self.starts[files + 1]).tolist():
            start = int(starts[row])  # this one runs on into the next file
            parts[row] = self.read(start, start + length).astype(dtype).view(np.uint8).data
        return np.frombuffer(bytearray().join(parts), dtype).reshape(-1, length)


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


@dataclass(frozen=True, kw_only=True)
class WindowOrder:
    """Where the k-th training window starts, for k = 0, 1, 2, ... without end.

    A text read again in a later epoch is another window, of another k.
    """

    n_tokens: int
    block_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_tokens <= self.block_size:
            raise ValueError(
                f"{self.n_tokens} tokens are too few for one window of {self.block_size + 1}; "
                "give more text, or a smaller block_size"
            )

    @property
    def windows_per_epoch(self) -> int:
        """Whole windows that fit at every offset (one window has block_size + 1 tokens)."""
        return max(1, (self.n_tokens - 1) // self.block_size - 1)

    def starts(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """First token of each window k; its targets are the block_size tokens after that."""
        epochs, i = np.divmod(k, self.windows_per_epoch)
        slack = self.n_tokens - 1 - self.windows_per_epoch * self.block_size
        starts = np.empty_like(k)
        for epoch in np.unique(epochs).tolist():
            offset = mix(self.seed, epoch, 1) % (slack + 1)
            chosen = epochs == epoch
            key = mix(self.seed, epoch, 2)
            images = permute(i[chosen].astype(np.uint64), self.windows_per_epoch, key)
            starts[chosen] = offset + images.astype(np.int64) * self.block_size
        return starts

    def keys(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """64 well-mixed bits of (seed, k), for all that is random about each window k."""
        mixed = splitmix(k.astype(np.uint64) + mix(self.seed))
        return splitmix(mixed + 3).view(np.int64)  # mix(seed, k, 3)


def check_vocabulary(tokens: Tokens, vocab_size: int) -> None:
    """Raise ValueError at a token id that a model of `vocab_size` does not know."""
    if tokens.size and tokens.max() >= vocab_size:
        raise ValueError(
            f"token id {tokens.max()} is beyond the model's vocabulary of {vocab_size}; "
            "the shards come from another tokenizer"
        )
