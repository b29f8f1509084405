"""Dropout from a given source of random numbers.

The threads of a process share PyTorch's own: which numbers each gets would depend on which is
faster. From a generator of its own a thread draws the same masks every time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Return x with each number zero by probability p and the others divided by 1 - p.

    From a generator with the seed of `torch.manual_seed` the masks are those of `F.dropout`, on a
    processor.
    """
    if generator is None or p == 0:
        return F.dropout(x, p)
    keep = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    return x * keep.div_(1 - p)
