"""A GPT, in two families behind one config.

`gpt2` is GPT-2 exactly (Radford et al. 2019): learned positions, pre-LayerNorm, GELU, biases, tied
head. `modern` is what the nanoGPT speedruns proved on any hardware: rotary positions, RMSNorm,
normalised queries and keys, squared ReLU, zero-initialised projections, a soft cap on the logits.
There is no switch between them: every choice is its own field of `GPTConfig`.

Shapes: B batch, T time, C channels (n_embd), H heads, D head size (C / H), V vocabulary, L layers.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogpt.config import GPTConfig
from nanogpt.model.attention import attend
from nanogpt.model.cache import KVCache, document_mask
from nanogpt.model.dropout import dropout, place_keys
from nanogpt.model.loss import Head, mean_loss, token_losses

HASH_BASE, HASH_FINISH = 0x9E3779B97F4A7C1, 0x2127599BF4325C37  # odd, as integers of 64 bits wrap


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
    """What `rotate` multiplies by at each of block_size positions, (block_size, 1, D) each.

    The cosines of the angles twice, and their sines, negative in the first half.
    """
    head_size = config.n_embd // config.n_head
    frequencies = 10_000.0 ** (-torch.arange(0, head_size, 2).float() / head_size)
    angles = torch.outer(torch.arange(config.block_size).float(), frequencies)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channels i and i + D/2 of x (B, T, H, D) together by their position's angle.

    Rotary positions (Su et al. 2021), `cos` and `sin` (T, 1, D) from `rotary_angles`.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def ngram_hashes(tokens: Sequence[Tensor], n_rows: int) -> list[Tensor]:
    """Return the table row (B, T) of the n-gram that ends at each token, for n = 2, 3, ….

    tokens[k] (B, T) is k places before. A polynomial hash modulo 2^64, its high bits mixed into
    the low ones (the finisher of MurmurHash3, Appleby 2011); n-grams may share a row.
    """
    rows, hashed = [], tokens[0]
    for token in tokens[1:]:
        hashed = hashed * HASH_BASE + token + 1
        mixed = (hashed ^ (hashed >> 33)) * HASH_FINISH
        rows.append((mixed ^ (mixed >> 33)) % n_rows)
    return rows


def residual(x: Tensor) -> Tensor:
    """The sum that layers add to, in bfloat16 on GPUs where autocast multiplies in that.

    There every pass over it waits for memory; on a CPU half the bytes gain nothing
    (docs/lab-notes.md). float16 has not the range for it.
    """
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    return x.bfloat16() if autocast and torch.get_autocast_dtype("cuda") == torch.bfloat16 else x


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
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        layer: int,
        cache: KVCache | None,
        mask: Tensor | None,
        keys: Sequence[Tensor | None],
    ) -> Tensor:
        B, T, C = x.size()
        qk, v = (
            self.c_attn(x)
            .view(B, T, 3 * self.n_head, -1)
            .split((2 * self.n_head, self.n_head), dim=2)
        )  # (B, T, 2H, D) and (B, T, H, D)
        if angles is not None:
            qk = rotate(qk, angles[0].to(qk.dtype), angles[1].to(qk.dtype))
        if self.qk_norm:
            qk = F.rms_norm(qk, qk.shape[-1:])
        q, k, v = (t.transpose(1, 2) for t in (*qk.chunk(2, dim=2), v))  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = attend(q, k, v, mask, dropout=self.dropout, key=keys[0])
        y = y.transpose(1, 2).reshape(B, T, C)
        return dropout(self.c_proj(y), self.dropout, keys[1])


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
    """Squared ReLU of x, of any shape."""
    squared: Tensor = SquaredReLU.apply(x)  # type: ignore[no-untyped-call] # torch leaves apply() untyped
    return squared


class MLP(nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.activation = config.activation
        self.gelu_form = "none" if config.activation == "gelu_exact" else "tanh"
        self.dropout = config.dropout

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        x = self.c_fc(x)  # (B, T, 4C)
        x = relu2(x) if self.activation == "relu2" else F.gelu(x, approximate=self.gelu_form)
        return dropout(self.c_proj(x), self.dropout, key)


class Block(nn.Module):
    """One layer: tokens attend to each other (attention), then each thinks alone (MLP)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = Norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = Norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        layer: int,
        cache: KVCache | None,
        mask: Tensor | None,
        keys: Sequence[Tensor | None],
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), angles, layer, cache, mask, keys[:2])
        x = x + self.mlp(self.ln_2(x), keys[2])
        return x


class GPT(nn.Module):
    """Token ids in, logits over the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # keep no activations within blocks: less memory, more arithmetic
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = (
            nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        )
        self.ngrams = nn.ModuleList(
            nn.Embedding(config.ngram_table, config.n_embd) for _ in config.ngram_orders
        )
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = Norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
        self.head = Head(vocab_size=config.vocab_size, softcap=config.logit_softcap)
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
            elif name.startswith("ngrams."):
                nn.init.zeros_(p)
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
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: Literal["mean", "none"] = "mean",
        cache: KVCache | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V padded) of idx (B, T), the padding at -inf.

        With targets (B, T) the loss in nats: the mean, or (B, T) with reduction "none". With a
        cache, idx continues what the cache has seen. Training with dropout takes keys (B,), random
        int64: what is dropped of a sequence depends on its own key alone.
        """
        if cache is not None:
            cache.advance(idx.size(1))
        x = self.hidden(idx, cache, keys)
        if targets is None:
            return self.logits(x)
        weight, x, targets = self.lm_head.weight, x.flatten(0, 1), targets.flatten()
        if reduction == "mean":
            return mean_loss(x, weight, targets, self.head)
        return token_losses(x, weight, targets, self.head).view_as(idx)

    def hidden(
        self,
        idx: Tensor,
        cache: KVCache | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
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
        if self.config.ngram_table:
            x = x + self.ngram_embedding(idx, cache)
        first, *others = self.dropout_keys(keys)
        x = dropout(residual(x), self.config.dropout, first)
        angles = None if self.wpe is not None else (self.cos[positions], self.sin[positions])
        mask = None if cache is None else cache.mask
        if self.config.mask_documents:
            mask = document_mask(idx, self.config.eot_token, cache)
        for layer, block in enumerate(self.h):
            inputs = (x, angles, layer, cache, mask, others[3 * layer : 3 * layer + 3])
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*inputs)
        normed: Tensor = self.ln_f(x)
        return normed

    def dropout_keys(self, keys: Tensor | None) -> Sequence[Tensor | None]:
        """Return a key (B, 2) for the embedding and three for each layer; None: no dropout there.

        Raises ValueError in a training with dropout but without keys (B,).
        """
        n_places = 1 + 3 * self.config.n_layer
        if not (self.training and self.config.dropout):
            return [None] * n_places
        if keys is None:
            raise ValueError("training with dropout takes keys: a random int64 for each sequence")
        return place_keys(keys, n_places).unbind()

    def ngram_embedding(self, idx: Tensor, cache: KVCache | None) -> Tensor:
        """Return the sum (B, T, C) of the table rows of the n-grams that end at each of idx (B, T).

        What precedes the first token of a context counts as separators.
        """
        n_before, eot_token = self.config.ngram_order - 1, self.config.eot_token
        if cache is not None:
            seen = cache.last_tokens(idx, n_before, eot_token)
        else:
            padded = F.pad(idx, (n_before, 0), value=eot_token)  # (B, n_before + T)
            seen = list(padded.unfold(1, n_before + 1, 1).flip(2).unbind(2))
        hashes = ngram_hashes(seen, self.config.ngram_table)
        return torch.stack([t(h) for t, h in zip(self.ngrams, hashes, strict=True)]).sum(0)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (..., V padded), in float32 at least, of `hidden` states (..., C)."""
        return self.head(self.lm_head(x))
