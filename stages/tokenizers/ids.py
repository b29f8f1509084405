"""The ids of texts as arrays: the narrowest numbers that hold every id of a vocabulary."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Ids:
    """The ids of some texts, one text after the other."""

    values: Tokens
    ends: NDArray[np.int64]  # (1 + texts,) a zero, then where each text ends


def token_dtype(n_vocab: int) -> type[np.unsignedinteger]:
    """Return the narrowest type that holds every id of a vocabulary."""
    return np.uint16 if n_vocab <= 1 << 16 else np.uint32
