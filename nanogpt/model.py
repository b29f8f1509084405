"""A GPT, in two families behind one config.

`gpt2` is GPT-2 exactly (Radford et al. 2019): learned positions, pre-LayerNorm, GELU, biases, tied
head. `modern` is what the nanoGPT speedruns proved on any hardware: rotary positions, RMSNorm,
normalised queries and keys, squared ReLU, zero-initialised projections, a soft cap on the logits.
There is no switch between them: every choice is its own field of `GPTConfig`.

Shapes: B batch, T time, C channels (n_embd), H heads, D head size (C / H), V vocabulary, L layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT and each of its design choices."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool
    position: Literal["learned", "rotary"]
    norm: Literal["layernorm", "rmsnorm"]
    activation: Literal["gelu", "relu2"]
    qk_norm: bool
    zero_init_proj: bool
    tie_weights: bool
    logit_softcap: float

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.position == "rotary" and (self.n_embd // self.n_head) % 2:
            raise ValueError("rotary positions need an even head size (n_embd / n_head)")

    @property
    def padded_vocab_size(self) -> int:
        """V rounded up to a multiple of 64, the size GPUs multiply fastest."""
        return math.ceil(self.vocab_size / 64) * 64


class KVCache:
    """Keys and values of every layer for the tokens seen so far, so that each is computed once.

    Slot t of a row holds its t-th token. Rows may hold unequal numbers of them: what lies beyond a
    row's own is seen by none of its tokens, and overwritten by its next ones.
    """

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype):
        head_size = config.n_embd // config.n_head
        shape = (batch, config.n_head, config.block_size, head_size)
        layers = range(config.n_layer)  # for each of them (B, H, block_size, D)
        self.k = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.v = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.block_size, self.device = config.block_size, device
        self.lengths = [0] * batch  # tokens in each row
        self.restart(range(batch), 0)

    def restart(self, rows: Sequence[int], n_tokens: int) -> None:
        """Make room for the first n_tokens of these rows, which the model reads next."""
        self.positions = torch.arange(n_tokens, device=self.device)  # (T,), or (B, T) if unequal
        self.place: tuple[Tensor | slice, ...] = (  # of the new tokens in a layer
            torch.tensor(list(rows), device=self.device),
            slice(None),
            slice(n_tokens),
        )
        self.slots: int | None = None  # the new tokens see each other alone
        self.mask: Tensor | None = None
        for row in rows:
            self.lengths[row] = n_tokens

    def advance(self, n_tokens: int, *, all_slots: bool = False) -> None:
        """Make room for the next n_tokens of every row, which the model reads next.

        They look at as many slots as the longest row fills, or at all, the same at every step.
        Raises ValueError when they do not fit.
        """
        start, end = min(self.lengths), max(self.lengths) + n_tokens
        if end > self.block_size:
            raise ValueError(f"{end} tokens do not fit into block_size {self.block_size}")
        self.slots = self.block_size if all_slots else end
        if equal := end - start == n_tokens and not all_slots:
            self.positions = torch.arange(start, end, device=self.device)
            self.place = (slice(None), slice(None), slice(start, end))
        else:
            starts = torch.tensor(self.lengths, device=self.device)[:, None]
            self.positions = starts + torch.arange(n_tokens, device=self.device)
            rows = torch.arange(len(self.lengths), device=self.device)[:, None]
            self.place = (rows, slice(None), self.positions)
        self.mask = None
        if not equal or n_tokens > 1:
            slots = torch.arange(self.slots, device=self.device)
            self.mask = slots <= self.positions[..., None]  # (T, slots) or (B, T, slots)
            self.mask = self.mask if equal else self.mask[:, None]  # the same for all heads
        self.lengths = [length + n_tokens for length in self.lengths]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k, v (B, H, T, D); return all that the new tokens may look at."""
        unequal = self.positions.ndim == 2  # two index tensors put B, T first
        self.k[layer][self.place] = k.transpose(1, 2) if unequal else k
        self.v[layer][self.place] = v.transpose(1, 2) if unequal else v
        if self.slots is None:
            return k, v
        return self.k[layer][:, :, : self.slots], self.v[layer][:, :, : self.slots]


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


def rotary_angles(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (block_size, D/2), of rotary positions (Su et al. 2021)."""
    head_size = config.n_embd // config.n_head
    frequencies = 10_000.0 ** (-torch.arange(0, head_size, 2).float() / head_size)
    angles = torch.outer(torch.arange(config.block_size).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels of x (B, H, T, D) by its position's angle (T, D/2)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which no token sees a later one (Vaswani et al. 2017)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.qk_norm = config.qk_norm
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, layer: int, cache: KVCache | None
    ) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)
        if angles is not None:
            cos, sin = angles[0].to(q.dtype), angles[1].to(q.dtype)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        mask = None
        if cache is not None:
            k, v = cache.extend(layer, k, v)
            mask = cache.mask
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and T > 1,
        )
        y = y.transpose(1, 2).reshape(B, T, C)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.activation = config.activation
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)  # (B, T, 4C)
        x = F.relu(x).square() if self.activation == "relu2" else F.gelu(x, approximate="tanh")
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    """One layer: tokens look at each other (attention), then each thinks alone (MLP)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = Norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = Norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, layer: int, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), angles, layer, cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """Token ids in, logits over the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = (
            nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        )
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = Norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.wte.weight
        if config.position == "rotary":
            self.cos: Tensor
            self.sin: Tensor
            cos, sin = rotary_angles(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """GPT-2's: normal(0, 0.02), residual projections divided by sqrt(2 L) or set to zero."""
        for name, p in self.named_parameters():
            if p.ndim < 2:  # norms start at one, biases at zero
                nn.init.zeros_(p) if name.endswith("bias") else nn.init.ones_(p)
            elif not name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02)
            elif self.config.zero_init_proj:
                nn.init.zeros_(p)
            else:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def n_params(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Logits (B, T, V padded) of idx (B, T), or with targets (B, T) each token's loss in nats.

        With a cache, idx continues what the cache has seen. Padding logits are -inf.
        """
        if cache is not None:
            cache.advance(idx.size(1))
        logits = self.logits(self.hidden(idx, cache))
        if targets is None:
            return logits
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view_as(targets)

    def hidden(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the layers make of idx (B, T), normalised for the head: (B, T, C).

        A cache must have made room for idx.
        """
        n_tokens, block_size = idx.size(1), self.config.block_size
        if n_tokens > block_size:
            raise ValueError(f"{n_tokens} tokens do not fit into block_size {block_size}")
        positions = torch.arange(n_tokens, device=idx.device) if cache is None else cache.positions
        x = self.wte(idx)  # (B, T, C)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        angles = None
        if self.wpe is None:  # (T, D/2), or (B, 1, T, D/2): the same for all heads
            angles = self.cos[positions], self.sin[positions]
            if positions.ndim == 2:
                angles = angles[0].unsqueeze(1), angles[1].unsqueeze(1)
        for layer, block in enumerate(self.h):
            x = block(x, angles, layer, cache)
        normed: Tensor = self.ln_f(x)
        return normed

    def logits(self, x: Tensor) -> Tensor:
        """Logits (..., V padded) in float32 of `hidden` states (..., C)."""
        logits: Tensor = self.lm_head(x).float()
        if self.config.logit_softcap:
            logits = self.config.logit_softcap * torch.tanh(logits / self.config.logit_softcap)
        if self.config.padded_vocab_size > self.config.vocab_size:
            padding = torch.arange(logits.size(-1), device=x.device) >= self.config.vocab_size
            logits = logits.masked_fill(padding, -math.inf)
        return logits
