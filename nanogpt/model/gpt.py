"""A GPT; every design choice is its own field of `GPTConfig`.

The defaults are GPT-2 (Radford et al. 2019): learned positions, pre-LayerNorm, GELU, biases, a tied
head. The others are techniques of the nanoGPT speedruns that work on any hardware, to be combined
freely: rotary positions, RMSNorm, normalized queries and keys, squared ReLU, zero-initialized
projections, a soft cap on the logits, hashed n-gram embeddings.

Shapes: B batch, T time, C channels (n_embd), D head size, V padded vocabulary, L layers.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogpt.config import GPTConfig
from nanogpt.model.block import Block, Norm
from nanogpt.model.cache import KVCache, document_mask
from nanogpt.model.dropout import dropout, place_keys
from nanogpt.model.loss import LogitTransform, mean_loss, token_losses
from nanogpt.model.position import rotary_cos_sin

HASH_BASE, HASH_FINISH = 0x9E3779B97F4A7C1, 0x2127599BF4325C37  # odd, as integers of 64 bits wrap


class GPT(nn.Module):
    """A decoder-only transformer: tokens in, logits over the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # activations in the backward pass: less memory, more arithmetic
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
        self.logit_transform = LogitTransform(
            vocab_size=config.vocab_size, softcap=config.logit_softcap
        )
        if config.tie_weights:
            self.lm_head.weight = self.wte.weight
        if config.position == "rotary":
            self.cos: Tensor
            self.sin: Tensor
            cos, sin = rotary_cos_sin(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize as GPT-2: normal(0, 0.02), residual projections scaled by 1 / sqrt(2 L).

        With zero_init_proj the residual projections are zero, and the n-gram tables always are.
        """
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
        """Return the number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: Literal["mean", "none"] = "mean",
        cache: KVCache | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, T, V) for tokens idx (B, T), those of the padding at -inf.

        With targets (B, T), return the loss in nats instead: the mean, or (B, T) with reduction
        "none". With a cache, idx continues the tokens the cache has seen. Training with dropout
        needs dropout_keys (B,), random int64: a sequence's dropout mask depends only on its own
        key.
        """
        if cache is not None:
            cache.advance(idx.size(1))
        x = self.hidden(idx, cache, dropout_keys)
        if targets is None:
            return self.logits(x)
        weight, x, targets = self.lm_head.weight, x.flatten(0, 1), targets.flatten()
        if reduction == "mean":
            return mean_loss(x, weight, targets, self.logit_transform)
        return token_losses(x, weight, targets, self.logit_transform).view_as(idx)

    def hidden(
        self,
        idx: Tensor,
        cache: KVCache | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Return the final hidden states (B, T, C) of tokens idx (B, T), after the last norm.

        A cache must have made room for idx. Raises ValueError when idx is longer than block_size.
        """
        n_tokens, block_size = idx.size(1), self.config.block_size
        if n_tokens > block_size:
            raise ValueError(f"sequence length {n_tokens} exceeds block_size {block_size}")
        positions = torch.arange(n_tokens, device=idx.device) if cache is None else cache.positions
        x = self.wte(idx)  # (B, T, C)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        if self.config.ngram_table:
            x = x + self.ngram_embedding(idx, cache)
        embedding_key, *layer_keys = self.dropout_keys_by_place(dropout_keys)
        x = dropout(to_residual_dtype(x), self.config.dropout, embedding_key)
        cos_sin = None if self.wpe is not None else (self.cos[positions], self.sin[positions])
        mask = None if cache is None else cache.mask
        if self.config.mask_documents:
            mask = document_mask(idx, self.config.eot_token, cache)
        for layer, block in enumerate(self.h):
            inputs = (x, cos_sin, layer, cache, mask, layer_keys[3 * layer : 3 * layer + 3])
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*inputs)
        normed: Tensor = self.ln_f(x)
        return normed

    def dropout_keys_by_place(self, dropout_keys: Tensor | None) -> Sequence[Tensor | None]:
        """Derive a key (B, 2) for the embedding and three per layer from those of the windows (B,).

        They are None where nothing is dropped. Raises ValueError when training with dropout but
        without keys.
        """
        n_places = 1 + 3 * self.config.n_layer
        if not (self.training and self.config.dropout):
            return [None] * n_places
        if dropout_keys is None:
            raise ValueError(
                "training with dropout requires dropout_keys: one random int64 per sequence"
            )
        return place_keys(dropout_keys, n_places).unbind()

    def ngram_embedding(self, idx: Tensor, cache: KVCache | None) -> Tensor:
        """Sum the embeddings of the n-grams that end at each token of idx (B, T): (B, T, C).

        Before the first token of a context, end-of-text tokens are assumed.
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
        """Return logits (..., V), in float32 at least, of `hidden` states (..., C)."""
        return self.logit_transform(self.lm_head(x))


def ngram_hashes(tokens: Sequence[Tensor], n_rows: int) -> list[Tensor]:
    """Return the table row (B, T) of the n-gram that ends at each token, for n = 2, 3, ….

    tokens[k] (B, T) holds the token k positions before each. The hash is polynomial modulo 2^64,
    its high bits mixed into the low ones (the finalizer of MurmurHash3, Appleby 2011); n-grams may
    share a row.
    """
    rows, hashed = [], tokens[0]
    for token in tokens[1:]:
        hashed = hashed * HASH_BASE + token + 1
        mixed = (hashed ^ (hashed >> 33)) * HASH_FINISH
        rows.append((mixed ^ (mixed >> 33)) % n_rows)
    return rows


def to_residual_dtype(x: Tensor) -> Tensor:
    """Cast the residual stream to bfloat16 on GPUs, where autocast multiplies in bfloat16.

    Every pass over it is bound by memory there; on a CPU half the bytes gain nothing
    (docs/lab-notes.md). float16 lacks the range.
    """
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    return x.bfloat16() if autocast and torch.get_autocast_dtype("cuda") == torch.bfloat16 else x
