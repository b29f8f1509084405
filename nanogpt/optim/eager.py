"""PyTorch's optimizers without `torch._dynamo`.

PyTorch 2 wraps the methods of its optimizers so that `torch.compile` leaves them alone, and each
wrapper imports `torch._dynamo` when it is first called: a second of processor time at the start of
every training run, for nothing, since no optimizer here is compiled. `__wrapped__` is the method
inside of the wrapper.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def inner(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside of a wrapper; a function that is not wrapped as it is."""
    found: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return found


class Eager(Optimizer):
    """Base class, before PyTorch's, of the optimizers that are never compiled."""

    add_param_group = inner(Optimizer.add_param_group)
    zero_grad = inner(Optimizer.zero_grad)
    state_dict = inner(Optimizer.state_dict)
    load_state_dict = inner(Optimizer.load_state_dict)


class AdamW(Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step = torch.no_grad()(inner(torch.optim.AdamW.step))
