"""The chunked loss is cross entropy: the same values and the same gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model import loss
from nanogpt.model.loss import LogitTransform, chunks, mean_loss, token_losses

N, C, V = 37, 8, 64


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the head's weight, targets."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, C, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=dtype).requires_grad_()
    return x, weight, torch.randint(50, (N,), generator=generator)


def by_hand(x: Tensor, weight: Tensor, targets: Tensor, head: LogitTransform) -> Tensor:
    """Losses (N,) by PyTorch's own operations over the real vocabulary."""
    logits = x @ weight[: head.vocab_size].T
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("chunk", [1, 5, N, 1000])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("vocab_size", [50, V])
def test_losses_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, chunk: int, softcap: float, vocab_size: int
) -> None:
    monkeypatch.setitem(loss.CHUNK_LOGITS, "cpu", chunk * V)
    monkeypatch.setattr(loss, "MIN_CHUNK_TOKENS", 1)
    head = LogitTransform(vocab_size=vocab_size, softcap=softcap)
    x, weight, targets = drawn()
    expected = by_hand(x, weight, targets, head)
    gradients = torch.autograd.grad(3 * expected.mean(), (x, weight))
    torch.testing.assert_close(token_losses(x, weight, targets, head), expected)
    value = mean_loss(x, weight, targets, head)
    torch.testing.assert_close(value, expected.mean())
    for ours, theirs in zip(torch.autograd.grad(3 * value, (x, weight)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_in_bfloat16_it_is_as_close_as_the_rounding() -> None:
    head = LogitTransform(vocab_size=50, softcap=2.0)
    x, weight, targets = drawn(torch.float32)
    expected = by_hand(x, weight, targets, head).mean()
    wanted = torch.autograd.grad(expected, (x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mean_loss(x, weight, targets, head)
    assert value.item() == pytest.approx(expected.item(), rel=5e-3)
    for ours, theirs in zip(torch.autograd.grad(value, (x, weight)), wanted, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() / theirs.norm() < 1e-2


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_compiled_it_is_the_same(softcap: float) -> None:
    head = LogitTransform(vocab_size=50, softcap=softcap)
    x, weight, targets = drawn()
    expected = mean_loss(x, weight, targets, head)
    wanted = torch.autograd.grad(expected, (x, weight))
    found = torch.compile(mean_loss, fullgraph=True)(x, weight, targets, head)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, (x, weight)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_chunks_cover_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, most = torch.device("cpu"), loss.CHUNK_LOGITS["cpu"]
    monkeypatch.setattr(loss, "MIN_CHUNK_TOKENS", 1)
    parts = list(chunks(10, most // 4, cpu))
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8), (8, 10)]
    parts = list(chunks(10, most // 7, cpu))  # not seven and then three
    assert [(part.start, part.stop) for part in parts] == [(0, 5), (5, 10)]
    assert [(part.start, part.stop) for part in chunks(1, 1 << 30, cpu)] == [(0, 1)]


def test_a_chunk_is_worth_reading_a_large_head_for() -> None:
    parts = list(chunks(1024, 50304, torch.device("cpu")))
    assert [(part.start, part.stop) for part in parts] == [(i, i + 256) for i in (0, 256, 512, 768)]


def test_padding_has_no_probability() -> None:
    logits = LogitTransform(vocab_size=50, softcap=0.0)(torch.randn(3, V))
    assert (logits[:, 50:] == -math.inf).all()
    assert logits[:, :50].isfinite().all()
