"""Scaled dot-product attention: PyTorch's fused kernels, or the plain product where it is faster.

Shapes: B batch, H heads, T queries, S keys, D head size.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from nanogpt.model.dropout import dropout as apply_dropout

# The most attention scores that the plain product may keep for the backward pass.
MAX_SCORES = 1 << 27

WITHOUT_CUDNN = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    dropout_key: Tensor | None = None,
) -> Tensor:
    """Return scaled dot-product attention (B, H, T, D) of q (B, H, T, D) over k, v (B, H, S, D).

    mask is True where a query attends to a key and broadcasts to (B, H, T, S). Without one,
    attention is causal, the queries being the last T of the S positions. With a dropout_key (B, 2)
    the attention weights are dropped out; the fused kernels would draw from their own generator.
    """
    T, S = q.size(2), k.size(2)
    if dropout_key is not None or plain_is_faster(q, k):
        plain_mask = causal_mask(T, S, q.device) if mask is None else mask
        if n_scores(q, k) <= MAX_SCORES:
            return plain_attention(q, k, v, plain_mask, dropout, dropout_key)
        inputs = (q, k, v, plain_mask, dropout, dropout_key)  # recomputes the weights backward
        y: Tensor = checkpoint(
            plain_attention, *inputs, use_reentrant=False, preserve_rng_state=False
        )
        return y
    if mask is None and 1 < T < S:
        mask = causal_mask(T, S, q.device)
    with allowed_kernels(q, mask):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and T > 1
        )


def allowed_kernels(q: Tensor, mask: Tensor | None) -> AbstractContextManager[None]:
    """Exclude cuDNN's kernel, PyTorch's first choice on recent GPUs, in cases it handles poorly.

    Under a mask its gradients may be NaN (pytorch/pytorch#196678), and in decoding it builds a new
    plan for each number of keys.
    """
    if q.device.type == "cuda" and (mask is not None or q.size(2) == 1):
        return sdpa_kernel(WITHOUT_CUDNN)
    return nullcontext()


def plain_is_faster(q: Tensor, k: Tensor) -> bool:
    """Return True on CPUs in bfloat16: the fused backward pass takes up to ten times as long."""
    if not q.requires_grad or q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return False
    return n_scores(q, k) <= MAX_SCORES


def n_scores(q: Tensor, k: Tensor) -> int:
    """Return the number of attention scores: one per query and key of each head."""
    return q.size(0) * q.size(1) * q.size(2) * k.size(2)


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    dropout: float = 0.0,
    dropout_key: Tensor | None = None,
) -> Tensor:
    """Compute softmax(q kᵀ / sqrt(D)) v (Vaswani et al. 2017) with all weights in memory."""
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -math.inf)
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1) + bias  # (B, H, T, S)
    return apply_dropout(scores.softmax(dim=-1, dtype=q.dtype), dropout, dropout_key) @ v


def causal_mask(n_query: int, n_key: int, device: torch.device) -> Tensor:
    """Return (n_query, n_key) booleans; the queries are the last n_query of the n_key positions."""
    ones = torch.ones(n_query, n_key, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_key - n_query)
