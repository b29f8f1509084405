"""The order in which training reads the windows of a split.

Window i of epoch e is a pure function of (seed, e, i): no state to save, nothing shuffled in
memory, and the same order for any number of processes. Windows do not overlap within an epoch, none
is skipped or repeated, and each epoch lays them at another offset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.rng import mix, permute, splitmix


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
