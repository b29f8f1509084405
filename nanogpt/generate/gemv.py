"""Fast matrix-vector products (GEMV) for generating one row on a CPU, bound by memory alone."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

# Smaller weights fit in a processor's cache, where any product is as fast.
MIN_GEMV_NUMEL = 1 << 17

PARTS = 8  # partial sums, one thread each: the result is the same for any number of threads


class GemvLinear(nn.Module):
    """An `nn.Linear` for CPUs that reads its weights once, in memory order, for a single row.

    A vector times a matrix is a weighted sum of the matrix's columns. `embedding_bag` computes just
    that, with prefetching and several parts of the columns in parallel. For several rows it is an
    ordinary matrix product.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # (out, in), stored by columns
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
        ).sum(0)  # (PARTS, out) to (out)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1)


def decoding_copy(model: GPT, runtime: Runtime) -> GPT:
    """Copy a model for generation, to the runtime's device and number format.

    On a CPU, its large linear layers become `GemvLinear`.
    """
    copied = deepcopy(model).to(runtime.device, runtime.dtype).eval().requires_grad_(False)
    if runtime.device.type == "cpu":
        for parent in list(copied.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and child.weight.numel() >= MIN_GEMV_NUMEL:
                    setattr(parent, name, GemvLinear(child))
        if model.config.tie_weights:
            copied.wte.weight = copied.lm_head.weight
    return copied
