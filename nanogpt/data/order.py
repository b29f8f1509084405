"""The order in which training reads the windows of a split.

Window i of epoch e is a pure function of (seed, e, i): there is no state to save and no permutation
in memory, and the order is the same for any number of processes. Within an epoch no windows overlap
and none is skipped or repeated; each epoch shifts all of them by another offset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.rng import mix, permute, splitmix


@dataclass(frozen=True, kw_only=True)
class WindowOrder:
    """The endless sequence of training windows k = 0, 1, 2, ...

    Tokens that are read again in a later epoch belong to another window, with another k.
    """

    n_tokens: int
    block_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_tokens <= self.block_size:
            raise ValueError(
                f"{self.n_tokens} tokens are too few for one window of {self.block_size + 1}; "
                "add text, or use a smaller block_size"
            )

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows that fit at any offset (each has block_size + 1 tokens)."""
        return max(1, (self.n_tokens - 1) // self.block_size - 1)

    def starts(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of the first token of each window k; its targets begin one later."""
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

    def dropout_keys(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a dropout key for each window k: 64 random bits, a hash of (seed, k)."""
        mixed = splitmix(k.astype(np.uint64) + mix(self.seed))
        return splitmix(mixed + 3).view(np.int64)  # equals mix(seed, k, 3)
