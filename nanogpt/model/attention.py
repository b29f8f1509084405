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

from nanogpt.model.dropout import dropout as drop

# The most (query, key) pairs whose weights the plain product may keep for the backward pass.
MAX_PAIRS = 1 << 27

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
    key: Tensor | None = None,
) -> Tensor:
    """Mix the values (B, H, S, D) that each query (B, H, T, D) may see by its scores.

    mask says by True which keys a query sees and broadcasts to (B, H, T, S); without one, the
    queries are the last T of the S positions and see no later one. With a key (B, 2) the weights
    are subject to dropout, which the fused kernels would draw from a generator of their own.
    """
    T, S = q.size(2), k.size(2)
    if key is not None or plain_is_faster(q, k):
        seen = causal_mask(T, S, q.device) if mask is None else mask
        if n_pairs(q, k) <= MAX_PAIRS:
            return plain_attention(q, k, v, seen, dropout, key)
        inputs = (q, k, v, seen, dropout, key)  # the weights are computed again when needed
        y: Tensor = checkpoint(
            plain_attention, *inputs, use_reentrant=False, preserve_rng_state=False
        )
        return y
    if mask is None and 1 < T < S:
        mask = causal_mask(T, S, q.device)
    with kernels(q, mask):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and T > 1
        )


def kernels(q: Tensor, mask: Tensor | None) -> AbstractContextManager[None]:
    """All kernels but cuDNN's where that is no good, which is the first choice on new GPUs.

    Under a mask its gradients may be NaN (pytorch/pytorch#196678), and in decoding it plans again
    for each number of keys.
    """
    if q.device.type == "cuda" and (mask is not None or q.size(2) == 1):
        return sdpa_kernel(WITHOUT_CUDNN)
    return nullcontext()


def plain_is_faster(q: Tensor, k: Tensor) -> bool:
    """On CPUs in bfloat16, where the fused backward pass takes up to ten times as long."""
    if not q.requires_grad or q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return False
    return n_pairs(q, k) <= MAX_PAIRS


def n_pairs(q: Tensor, k: Tensor) -> int:
    """Return the number of weights: one per query and key of each head."""
    return q.size(0) * q.size(1) * q.size(2) * k.size(2)


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    dropout: float = 0.0,
    key: Tensor | None = None,
) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v (Vaswani et al. 2017), the weights held in memory."""
    unseen = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -math.inf)
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1) + unseen  # (B, H, T, S)
    return drop(scores.softmax(dim=-1, dtype=q.dtype), dropout, key) @ v


def causal_mask(n_query: int, n_key: int, device: torch.device) -> Tensor:
    """(n_query, n_key) booleans: the queries are the last n_query of the n_key positions."""
    ones = torch.ones(n_query, n_key, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_key - n_query)
