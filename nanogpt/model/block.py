"""One transformer layer: normalization, causal self-attention and the MLP.

Shapes: B batch, T time, C channels (n_embd), H heads, D head size (C / H).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import GPTConfig
from nanogpt.model.attention import attend
from nanogpt.model.cache import KVCache
from nanogpt.model.dropout import dropout
from nanogpt.model.position import apply_rotary


class Norm(nn.Module):
    """LayerNorm with weight and optional bias, or RMSNorm without parameters."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.shape = (config.n_embd,)
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if config.norm == "layernorm":
            self.weight = nn.Parameter(torch.ones(config.n_embd))
            self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return F.rms_norm(x, self.shape)
        return F.layer_norm(x, self.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which no token attends to a later one (Vaswani et al. 2017)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.qk_norm = config.qk_norm
        self.dropout = config.dropout

    def forward(
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None,
        layer: int,
        cache: KVCache | None,
        mask: Tensor | None,
        dropout_keys: Sequence[Tensor | None],
    ) -> Tensor:
        B, T, C = x.size()
        qk, v = (
            self.c_attn(x)
            .view(B, T, 3 * self.n_head, -1)
            .split((2 * self.n_head, self.n_head), dim=2)
        )  # (B, T, 2H, D) and (B, T, H, D): queries and keys are rotated and normalized together
        if cos_sin is not None:
            qk = apply_rotary(qk, cos_sin[0].to(qk.dtype), cos_sin[1].to(qk.dtype))
        if self.qk_norm:
            qk = F.rms_norm(qk, qk.shape[-1:])
        q, k, v = (t.transpose(1, 2) for t in (*qk.chunk(2, dim=2), v))  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = attend(q, k, v, mask, dropout=self.dropout, dropout_key=dropout_keys[0])
        y = y.transpose(1, 2).reshape(B, T, C)  # concatenate the heads
        return dropout(self.c_proj(y), self.dropout, dropout_keys[1])


class SquaredReLU(torch.autograd.Function):
    """max(x, 0) squared (So et al. 2021), with fewer passes over x than autograd makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        positive: Tensor = ctx.saved_tensors[0]
        return (gradients[0] * positive).mul_(2)


def relu2(x: Tensor) -> Tensor:
    """Return max(x, 0) squared, for x of any shape."""
    squared: Tensor = SquaredReLU.apply(x)  # type: ignore[no-untyped-call] # torch leaves apply() untyped
    return squared


class MLP(nn.Module):
    """Two linear layers with an activation in between; the hidden width is 4C."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.activation = config.activation
        self.gelu_form = "none" if config.activation == "gelu_exact" else "tanh"
        self.dropout = config.dropout

    def forward(self, x: Tensor, dropout_key: Tensor | None) -> Tensor:
        x = self.c_fc(x)  # (B, T, 4C)
        x = relu2(x) if self.activation == "relu2" else F.gelu(x, approximate=self.gelu_form)
        return dropout(self.c_proj(x), self.dropout, dropout_key)


class Block(nn.Module):
    """One pre-norm layer: attention mixes the tokens, the MLP works on each of them alone."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = Norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = Norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None,
        layer: int,
        cache: KVCache | None,
        mask: Tensor | None,
        dropout_keys: Sequence[Tensor | None],
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), cos_sin, layer, cache, mask, dropout_keys[:2])
        x = x + self.mlp(self.ln_2(x), dropout_keys[2])
        return x
