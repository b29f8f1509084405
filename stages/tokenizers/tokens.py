"""Arrays of tokens, in the narrowest type that holds every token id of the vocabulary."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class RaggedTokens:
    """The tokens of several texts, concatenated."""

    values: Tokens
    offsets: NDArray[np.int64]  # (1 + texts,) a zero, then where each text ends


def token_dtype(n_vocab: int) -> type[np.unsignedinteger]:
    """Return the narrowest type that holds every token id of a vocabulary of this size."""
    return np.uint16 if n_vocab <= 1 << 16 else np.uint32
