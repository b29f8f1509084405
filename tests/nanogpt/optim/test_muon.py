"""Muon by batches of one shape is PyTorch's Muon."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt.optim.muon import Muon, orthogonalize

SHAPES = [(24, 8), (8, 8), (8, 32), (24, 8), (8, 32), (24, 8)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def drawn(seed: int) -> list[nn.Parameter]:
    """Matrices, of which some have the same shape."""
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def test_it_moves_matrices_as_pytorch_does() -> None:
    matrices, others = drawn(0), drawn(0)
    ours = Muon(matrices, lr=0.02, weight_decay=0.1, dtype=torch.bfloat16)  # as theirs always is
    theirs = torch.optim.Muon(others, lr=0.02, weight_decay=0.1)
    for step in range(5):
        for p, q, gradient in zip(matrices, others, drawn(step + 1), strict=True):
            p.grad, q.grad = gradient.detach().clone(), gradient.detach().clone()
        matrices[1].grad = others[1].grad = None if step == 2 else others[1].grad
        if step == 3:  # each continues with what the other kept
            state, other_state = deepcopy(ours.state_dict()), deepcopy(theirs.state_dict())
            ours.load_state_dict(other_state)
            theirs.load_state_dict(state)
        ours.step()
        theirs.step()
        for p, q in zip(matrices, others, strict=True):
            torch.testing.assert_close(p, q, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 32), (3, 32, 8), (1, 16, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.tensor([1e-3, 1.0, 1e3])[: len(matrices), None, None]  # whatever the size
    found = orthogonalize(matrices.to(dtype), COEFFICIENTS, 5, 1e-7)
    assert found.dtype == dtype
    values = torch.linalg.svdvals(found.float())
    assert values.max() < 1.3
    assert values.min() > 0.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    found = found.float()
    alike = (found * (u @ vt)).sum((1, 2)) / (found.norm(dim=(1, 2)) * (u @ vt).norm(dim=(1, 2)))
    assert (alike > 0.95).all()


def test_products_are_in_the_format_given() -> None:
    """float32 differs from bfloat16 by its rounding, and by no more."""
    matrices, others = drawn(0), drawn(0)
    full = Muon(matrices, lr=0.02, weight_decay=0.0, dtype=torch.float32)
    half = Muon(others, lr=0.02, weight_decay=0.0, dtype=torch.bfloat16)
    for p, q, gradient in zip(matrices, others, drawn(1), strict=True):
        p.grad, q.grad = gradient.detach().clone(), gradient.detach().clone()
    full.step()
    half.step()
    for p, q in zip(matrices, others, strict=True):
        torch.testing.assert_close(p, q, atol=1e-3, rtol=0)
        assert not torch.equal(p, q)


@pytest.mark.parametrize("shape", [(2, 8, 32), (2, 64, 16), (2, 8, 16)])
def test_iterations_of_the_gram_matrix_are_those_of_the_matrix(
    shape: tuple[int, int, int],
) -> None:
    """float64 takes the long way, float32 the short one where a side is twice the other."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    short = orthogonalize(matrices, COEFFICIENTS, 5, 1e-7)
    long = orthogonalize(matrices.double(), COEFFICIENTS, 5, 1e-7)
    torch.testing.assert_close(short.double(), long, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("matrices", "workers", "wanted"),
    [(4, 2, [2, 2]), (2, 2, [1, 1]), (4, 4, [1, 1, 1, 1]), (3, 2, [2, 1]), (1, 2, [1])],
)
def test_every_thread_has_its_share_of_the_matrices(
    matrices: int, workers: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = [torch.nn.Parameter(torch.randn(6, 4)) for _ in range(matrices)]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for p, q in zip(params, alone, strict=True):
        p.grad = q.grad = torch.randn(6, 4)
    sizes = []

    def counted(part: torch.Tensor, **how: Any) -> torch.Tensor:
        sizes.append(len(part))
        return orthogonalize(part, **how)

    Muon(alone, lr=0.02, weight_decay=0.0, dtype=torch.float32).step()
    monkeypatch.setattr("nanogpt.optim.muon.orthogonalize", counted)
    with ThreadPoolExecutor(workers) as pool:
        Muon(
            params, lr=0.02, weight_decay=0.0, dtype=torch.float32, pool=pool, workers=workers
        ).step()
    assert sorted(sizes, reverse=True) == wanted
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p, q)
