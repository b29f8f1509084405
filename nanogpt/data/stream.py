"""Token files: a split is a list of memory-mapped `.npy` files, read as one stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]


class TokenStream:
    """The tokens of one split: several memory-mapped arrays of one dtype, read as one.

    Raises ValueError when their dtypes differ.
    """

    def __init__(self, shards: Sequence[Tokens]) -> None:
        if len({shard.dtype for shard in shards}) > 1:
            raise ValueError(
                "the files of a split hold tokens of different types; shard them again"
            )
        self.shards = list(shards)
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])  # (shards + 1,)
        self.bytes = [shard.view(np.uint8).data for shard in self.shards]

    @classmethod
    def open(cls, files: Sequence[Path]) -> "TokenStream":
        """Memory-map `.npy` files of tokens, in the order given."""
        return cls([np.load(file, mmap_mode="r") for file in files])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read tokens [start, stop), across files if necessary."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while start < stop:
            base, end = int(self.starts[first]), min(stop, int(self.starts[first + 1]))
            parts.append(self.shards[first][start - base : end - base])
            start, first = end, first + 1
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)

    def read_rows(self, starts: NDArray[np.int64], length: int) -> Tokens:
        """Read `length` tokens from each start, (len(starts), length), in the dtype of the files.

        Joins slices of memory in one call, the fastest way that does not slow down with the number
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
            start = int(starts[row])  # continues in the next file
            parts[row] = self.read(start, start + length).astype(dtype).view(np.uint8).data
        return np.frombuffer(bytearray().join(parts), dtype).reshape(-1, length)


def check_vocabulary(tokens: Tokens, vocab_size: int) -> None:
    """Raise ValueError when a token id is not below vocab_size."""
    if tokens.size and tokens.max() >= vocab_size:
        raise ValueError(
            f"token id {tokens.max()} is beyond the model's vocabulary of {vocab_size}; "
            "the shards come from another tokenizer"
        )
