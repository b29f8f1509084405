"""The plain product and the fused kernels are the same attention."""

import pytest
import torch
from torch import Tensor

from nanogpt.model import attention
from nanogpt.model.attention import attend, causal_mask, plain_attention, plain_is_faster
from nanogpt.model.dropout import place_keys


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 17, 8), (1, 2, 64, 16)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_plain_equals_fused_forward_and_backward(shape: tuple[int, ...], masked: bool) -> None:
    T = shape[2]
    causal = causal_mask(T, T, torch.device("cpu"))
    recent = causal & ~causal.tril(-3)  # each query sees three keys
    results = []
    for plain in (True, False):
        q, k, v = drawn(*shape)
        mask = recent if masked else None
        y = (
            plain_attention(q, k, v, recent if masked else causal)
            if plain
            else attend(q, k, v, mask)
        )
        y.square().sum().backward()
        results.append([y.detach(), q.grad, k.grad, v.grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_on_a_cpu_is_as_close_as_its_rounding() -> None:
    exact = attend(*drawn(2, 2, 32, 16))
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in drawn(2, 2, 32, 16))
    assert plain_is_faster(q, k)
    torch.testing.assert_close(attend(q, k, v).double(), exact, atol=3e-2, rtol=0)


def test_too_many_pairs_go_to_the_kernels_that_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, _ = drawn(1, 2, 8, 4, dtype=torch.bfloat16)
    assert plain_is_faster(q, k)
    monkeypatch.setattr(attention, "MAX_SCORES", 2 * 8 * 8 - 1)
    assert not plain_is_faster(q, k)


def test_a_query_at_the_end_sees_every_key() -> None:
    q, k, v = drawn(2, 2, 9, 4)
    torch.testing.assert_close(attend(q[:, :, -1:], k, v), attend(q, k, v)[:, :, -1:])
    torch.testing.assert_close(attend(q[:, :, -4:], k, v), attend(q, k, v)[:, :, -4:])


KEYS = place_keys(torch.arange(2), 1)[0]  # (B, 2)


def test_dropout_hides_weights_and_keeps_the_mean() -> None:
    q, k, _ = drawn(1, 1, 512, 4, dtype=torch.bfloat16)
    ones = torch.ones(1, 1, 512, 4, dtype=torch.bfloat16)
    y = attend(q, k, ones, dropout=0.5, dropout_key=KEYS[:1]).float()
    assert y[0, 0, 0, 0].item() in (0.0, 2.0)  # the first query has one key
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)


def test_weights_computed_again_are_subject_to_the_same_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too many pairs to be kept give the same values and gradients, bit for bit."""
    results = []
    for most in (attention.MAX_SCORES, 1):
        monkeypatch.setattr(attention, "MAX_SCORES", most)
        q, k, v = drawn(2, 2, 9, 4)
        y = attend(q, k, v, dropout=0.5, dropout_key=KEYS)
        y.square().sum().backward()
        results.append([y.detach(), q.grad, k.grad, v.grad])
    for kept, again in zip(*results, strict=True):
        assert torch.equal(kept, again)
    assert not torch.equal(results[0][0], attend(*drawn(2, 2, 9, 4)))
