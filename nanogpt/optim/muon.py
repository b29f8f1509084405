"""Muon (Jordan et al. 2024), batched over matrices of the same shape.

`torch.optim.Muon` orthogonalizes one matrix after another: for small models that is hundreds of
small kernels per update, and a GPU waits for their launches. Here matrices of one shape form one
batch. The computation and the state are PyTorch's with its own settings, apart from the number
format: PyTorch multiplies in bfloat16 everywhere, which most CPUs emulate.

Shapes: N matrices of R rows and C columns; r the shorter and s the longer side.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nanogpt.optim.eager import Eager


class Muon(Eager, torch.optim.Muon):
    """`torch.optim.Muon` with a batched `step`, in `dtype` and by `workers` threads of a pool."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
        pool: Executor | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(list(params), lr=lr, weight_decay=weight_decay)
        self.dtype, self.pool, self.workers = dtype, pool, workers

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override] # theirs returns a closure's value
        """Apply one Muon update to every parameter with a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for matrices in by_shape.values():
                self.update(matrices, group)

    def update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape, all of which have gradients, in place."""
        gradients = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        lr, (rows, columns) = group["lr"], matrices[0].shape
        orthogonalize_batch = partial(
            orthogonalize,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        stacked = torch.stack(updates).to(self.dtype)
        if self.pool is None:
            orthogonal = orthogonalize_batch(stacked)
        else:  # one batch per thread: a call per matrix would spend more time in Python
            batches = stacked.tensor_split(min(self.workers, len(matrices)))
            orthogonal = torch.cat(list(self.pool.map(orthogonalize_batch, batches)))
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        directions = orthogonal.to(matrices[0]).unbind()
        torch._foreach_add_(matrices, directions, alpha=-lr * max(1, rows / columns) ** 0.5)


def orthogonalize(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Map each matrix U S Vᵀ of (N, R, C) approximately to U Vᵀ, by Newton-Schulz iterations.

    Computed in the dtype of the matrices: bfloat16 is precise enough (Jordan et al. 2024).
    """
    a, b, c = coefficients
    tall = matrices.size(1) > matrices.size(2)
    x: Tensor = matrices.mT if tall else matrices  # (N, r, s)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    gram = x @ x.mT
    if x.dtype == torch.float32 and x.size(2) >= 2 * x.size(1):
        x = gram_iterations(gram, coefficients, steps) @ x
        return x.mT if tall else x
    for step in range(steps):
        gram = x @ x.mT if step else gram
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def gram_iterations(gram: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Return P (N, r, r) such that P x is the result of the iterations on x, from gram = x xᵀ.

    Each iteration multiplies x by a polynomial p of its Gram matrix, and so the Gram matrix by p
    from both sides; all of these commute. The longer side of x thus enters one product instead of
    ten. In bfloat16 the rounding errors would add up.
    """
    a, b, c = coefficients
    identity = torch.eye(gram.size(1), dtype=gram.dtype, device=gram.device)
    product: Tensor = identity.expand_as(gram)
    for step in range(steps):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = p @ product if step else p
        if step < steps - 1:
            gram = p @ gram @ p
    return product
