"""A model to generate with: a step for one row of text is as fast as its weights are read."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Weights of fewer numbers fit in a processor's cache, where any product is as fast.
MIN_STREAMED = 1 << 17

PARTS = 8  # of a sum, each by one thread: the same sum for any number of threads


class GemvLinear(nn.Module):
    """An `nn.Linear` on a processor whose weights are read once, in the order of memory.

    One row times a matrix is a sum of the matrix's columns, each times a number: what
    `embedding_bag` does, fetching ahead, several parts of the columns at once. Several rows are a
    product as ever.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # (out, in), by columns
        self.weight = nn.Parameter(linear.weight.t().contiguous().t(), requires_grad=False)
        self.bias = linear.bias
        self.columns: Tensor
        self.starts: Tensor
        starts = torch.arange(PARTS) * linear.in_features // PARTS
        self.register_buffer("columns", torch.arange(linear.in_features), persistent=False)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != len(self.columns):
            return F.linear(x, self.weight, self.bias)
        y = F.embedding_bag(
            self.columns, self.weight.t(), self.starts, mode="sum", per_sample_weights=x.flatten()
        ).sum(0)  # (parts, out) to (out)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1)


def decoding_copy(model: GPT, runtime: Runtime) -> GPT:
    """A copy to generate with: on the runtime's device, all of it in the runtime's number format.

    On a processor its large matrices are of the kind that one row streams through.
    """
    copied = deepcopy(model).to(runtime.device, runtime.dtype).eval().requires_grad_(False)
    if runtime.device.type == "cpu":
        for parent in list(copied.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and child.weight.numel() >= MIN_STREAMED:
                    setattr(parent, name, GemvLinear(child))
        if model.config.tie_weights:
            copied.wte.weight = copied.lm_head.weight
    return copied
