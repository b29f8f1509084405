"""Rotary position embeddings (RoFormer, Su et al. 2021).

Shapes: B batch, T time, H heads, D head size.
"""

import torch
from torch import Tensor

from nanogpt.config import GPTConfig


def rotary_cos_sin(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Precompute the factors of `apply_rotary` for every position, (block_size, 1, D) each.

    The cosines are repeated for both halves of D; the sines are negated in the first half.
    """
    head_size = config.n_embd // config.n_head
    frequencies = 10_000.0 ** (-torch.arange(0, head_size, 2).float() / head_size)
    angles = torch.outer(torch.arange(config.block_size).float(), frequencies)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each channel pair (i, i + D/2) of x (B, T, H, D) by the angle of its position.

    `cos` and `sin` (T, 1, D) come from `rotary_cos_sin`.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)
