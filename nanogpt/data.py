"""Token files and the order in which training reads them.

A split is a list of `.npy` files, memory-mapped and read as one long stream. Window i of epoch e is
a pure function of (seed, e, i): no state to save, nothing shuffled in memory, and the same order
for any number of processes. Windows do not overlap within an epoch, none is skipped or repeated,
and each epoch lays them at another offset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TokenStream:
    """The tokens of one split: several memory-mapped arrays seen as one."""

    def __init__(self, shards: Sequence[NDArray[np.unsignedinteger]]) -> None:
        self.shards = list(shards)
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])  # (shards + 1,)

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


def mix(*values: int) -> int:
    """64 well-mixed bits of some integers (SplitMix64 steps, Steele et al. 2014)."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state


def permute(index: int, size: int, key: int) -> int:
    """The image of `index` under a permutation of range(size) chosen by `key`, in O(1) memory.

    A four-round Feistel network on the smallest even number of bits that holds `size`, walked until
    it lands inside the range (Black and Rogaway 2002, cycle walking).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(4):
            left, right = right, left ^ (mix(key, round_number, right) & mask)
        index = (left << half) | right
        if index < size:
            return index


@dataclass(frozen=True, kw_only=True)
class WindowOrder:
    """Where the k-th training window starts, for k = 0, 1, 2, ... without end."""

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

    def start(self, k: int) -> int:
        """First token of window k; its targets are the block_size tokens after that."""
        epoch, i = divmod(k, self.windows_per_epoch)
        slack = self.n_tokens - 1 - self.windows_per_epoch * self.block_size
        offset = mix(self.seed, epoch, 1) % (slack + 1)
        i = permute(i, self.windows_per_epoch, mix(self.seed, epoch, 2))
        return offset + i * self.block_size


def read_windows(
    stream: TokenStream, starts: Sequence[int], block_size: int, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each (len(starts), block_size) int64: the targets are one token later.

    Raises ValueError at a token beyond the vocabulary.
    """
    rows = np.stack([stream.read(start, start + block_size + 1) for start in starts])
    check_vocabulary(rows, vocab_size)
    windows = torch.from_numpy(rows)
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def check_vocabulary(tokens: NDArray[np.int64], vocab_size: int) -> None:
    """Raise ValueError at a token id that a model of `vocab_size` does not know."""
    if tokens.size and tokens.max() >= vocab_size:
        raise ValueError(
            f"token id {tokens.max()} is beyond the model's vocabulary of {vocab_size}; "
            "the shards come from another tokenizer"
        )
