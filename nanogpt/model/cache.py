"""The KV cache: keys and values of the tokens read so far, so that each is computed once.

Shapes: B batch, T new tokens, S slots attended to, H heads, D head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.config import GPTConfig
from nanogpt.model.attention import causal_mask


class KVCache:
    """Keys and values of every layer for the tokens of a batch of rows.

    Slot t of a row holds its t-th token. Rows may differ in length: slots beyond the end of a row
    are masked, and overwritten by its next tokens.
    """

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype):
        head_size = config.n_embd // config.n_head
        shape = (batch, config.n_head, config.block_size, head_size)
        layers = range(config.n_layer)  # for each of them (B, H, block_size, D)
        self.k = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.v = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.idx = torch.zeros(batch, config.block_size, device=device, dtype=torch.long)
        self.block_size, self.device = config.block_size, device
        self.lengths = [0] * batch  # tokens in each row
        self.reset(range(batch), 0)

    def reset(self, rows: Sequence[int], n_tokens: int) -> None:
        """Empty these rows and make room for their first n_tokens, which the model reads next."""
        self.positions = torch.arange(n_tokens, device=self.device)  # (T,), or (B, T) if unequal
        self.index: tuple[Tensor | slice, ...] = (  # of the new tokens in k and v of a layer
            torch.tensor(list(rows), device=self.device),
            slice(None),
            slice(n_tokens),
        )
        self.slots: int | None = None  # the new tokens attend to nothing but each other
        self.mask: Tensor | None = None
        for row in rows:
            self.lengths[row] = n_tokens

    def advance(self, n_tokens: int, *, all_slots: bool = False) -> None:
        """Make room for the next n_tokens of every row, which the model reads next.

        They attend to as many slots as the longest row fills, or, with all_slots, to all of them:
        then shapes stay the same from step to step, as a compiled model needs. Raises ValueError
        when they do not fit.
        """
        start, end = min(self.lengths), max(self.lengths) + n_tokens
        if end > self.block_size:
            raise ValueError(f"sequence length {end} exceeds block_size {self.block_size}")
        self.slots = self.block_size if all_slots else end
        if equal := end - start == n_tokens and not all_slots:
            self.positions = torch.arange(start, end, device=self.device)
            self.index = (slice(None), slice(None), slice(start, end))
        else:
            starts = torch.tensor(self.lengths, device=self.device)[:, None]
            self.positions = starts + torch.arange(n_tokens, device=self.device)
            rows = torch.arange(len(self.lengths), device=self.device)[:, None]
            self.index = (rows, slice(None), self.positions)
        self.mask = None
        if not equal or n_tokens > 1:
            slots = torch.arange(self.slots, device=self.device)
            self.mask = slots <= self.positions[..., None]  # (T, slots) or (B, T, slots)
            self.mask = self.mask if equal else self.mask[:, None]  # the same for all heads
        self.lengths = [length + n_tokens for length in self.lengths]

    def extend_idx(self, idx: Tensor) -> Tensor:
        """Store the new tokens idx (B, T); return all those they may attend to, (B, S)."""
        rows, _, slots = self.index
        self.idx[rows, slots] = idx
        return idx if self.slots is None else self.idx[:, : self.slots]

    def last_tokens(self, idx: Tensor, n_before: int, eot_token: int) -> list[Tensor]:
        """Store the new tokens idx (B, T); return those 0, 1, … n_before positions before each.

        Before the start of a row, they are end-of-text tokens.
        """
        context = self.extend_idx(idx)  # (B, S)
        positions = self.positions.expand_as(idx)
        shifted = [positions - k for k in range(n_before + 1)]
        return [torch.where(p < 0, eot_token, context.gather(1, p.clamp(min=0))) for p in shifted]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k, v (B, H, T, D); return all those they may attend to, (B, H, S, D)."""
        unequal = self.positions.ndim == 2  # two index tensors put B, T first
        self.k[layer][self.index] = k.transpose(1, 2) if unequal else k
        self.v[layer][self.index] = v.transpose(1, 2) if unequal else v
        if self.slots is None:
            return k, v
        return self.k[layer][:, :, : self.slots], self.v[layer][:, :, : self.slots]


def document_mask(idx: Tensor, eot_token: int, cache: KVCache | None = None) -> Tensor:
    """Return (B, 1, T, S) booleans: each token of idx (B, T) attends to its document so far.

    An end-of-text token belongs to the document after it, whose first token is predicted from it.
    """
    context = idx if cache is None else cache.extend_idx(idx)  # (B, S)
    T, S = idx.size(1), context.size(1)
    document = (context == eot_token).cumsum(1)
    mask = causal_mask(T, S, idx.device) if cache is None or cache.mask is None else cache.mask
    if cache is None or cache.positions.ndim == 1:
        own = document[:, -T:]
    else:  # rows of unequal length
        own = document.gather(1, cache.positions)
    return (own[:, None, :, None] == document[:, None, None, :]) & mask
