"""How well a model predicts a whole split: every token once, nothing sampled.

The stream is cut into consecutive windows; each token is predicted from those before it in its
window, the very first from the separator that precedes every document. What is summed is exact and
the same for any batch size or number of processes, up to rounding.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.data import TokenStream, check_vocabulary
from nanogpt.model import GPT
from nanogpt.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Losses in nats per token. Windows are the units of the standard error."""

    loss: float
    standard_error: float
    tokens: int
    loss_by_position: NDArray[np.float64]  # (block_size,), position 0 has no context but one token

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens it amounts to."""
        return math.exp(self.loss)


def bits_per_byte(loss: float, n_tokens: int, n_bytes: int) -> float:
    """Nats per token turned into bits per byte of text, comparable between tokenizers."""
    return loss * n_tokens / (math.log(2) * n_bytes)


def split_windows(n_tokens: int, block_size: int) -> list[int]:
    """First target of each consecutive window over a split."""
    return list(range(0, n_tokens, block_size))


def window_at(stream: TokenStream, start: int, block_size: int, separator: int) -> Tensor:
    """Tokens [start - 1, start + block_size) as (1 + targets,), led by the separator at 0."""
    stop = min(start + block_size, len(stream))
    tokens = stream.read(max(start - 1, 0), stop)
    return torch.from_numpy(np.concatenate(([separator], tokens)) if start == 0 else tokens)


@torch.inference_mode()
def evaluate_split(
    model: GPT,
    stream: TokenStream,
    *,
    separator: int,
    runtime: Runtime,
    batch_tokens: int = 16_384,
    block_size: int | None = None,
    max_windows: int | None = None,
) -> Evaluation:
    """Evaluate on the whole split, or on max_windows of it spread evenly.

    block_size is the length of a window, by default all that the model takes.
    """
    block_size = block_size or model.config.block_size
    starts = split_windows(len(stream), block_size)
    if max_windows is not None and max_windows < len(starts):
        starts = [starts[i * len(starts) // max_windows] for i in range(max_windows)]
    mine = range(runtime.rank, len(starts), runtime.world_size)
    window_sums = torch.zeros(len(starts), dtype=torch.float64)
    window_tokens = torch.zeros(len(starts), dtype=torch.float64)
    position_sums = torch.zeros(block_size, dtype=torch.float64)
    position_tokens = torch.zeros(block_size, dtype=torch.float64)
    was_training = model.training
    model.eval()
    for batch in batches(mine, max(1, batch_tokens // block_size)):
        windows = [window_at(stream, starts[i], block_size, separator) for i in batch]
        for group in by_length(windows):  # only the last window of a split is shorter
            rows = torch.stack([windows[j] for j in group])  # (B, 1 + T)
            check_vocabulary(rows.numpy(), model.config.vocab_size)
            rows = rows.to(runtime.device)
            with runtime.autocast():
                losses = model(rows[:, :-1], rows[:, 1:], reduction="none")  # (B, T)
            losses = losses.cpu().double()
            T = losses.size(1)
            position_sums[:T] += losses.sum(0)
            position_tokens[:T] += len(group)
            for j, row in zip(group, losses, strict=True):
                window_sums[batch[j]] = row.sum()
                window_tokens[batch[j]] = T
    model.train(was_training)
    if runtime.distributed:
        for sums in (window_sums, window_tokens, position_sums, position_tokens):
            sums.copy_(runtime.all_reduce_sum(sums.to(runtime.device)).cpu())
    return summarise(window_sums, window_tokens, position_sums, position_tokens)


def summarise(
    window_sums: Tensor, window_tokens: Tensor, position_sums: Tensor, position_tokens: Tensor
) -> Evaluation:
    """Mean loss, its standard error (ratio estimator over windows) and the mean per position."""
    tokens = window_tokens.sum()
    loss = window_sums.sum() / tokens
    n = len(window_sums)
    residuals = window_sums - loss * window_tokens
    variance = residuals.square().sum() / max(1, n - 1) * n / tokens.square()
    return Evaluation(
        loss=loss.item(),
        standard_error=math.sqrt(variance.item()),
        tokens=int(tokens.item()),
        loss_by_position=(position_sums / position_tokens.clamp(min=1)).numpy(),
    )


def batches(indices: range, size: int) -> list[range]:
    """`indices` in runs of at most `size`."""
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def by_length(windows: list[Tensor]) -> list[list[int]]:
    """Positions of the windows, grouped by their length."""
    groups: dict[int, list[int]] = {}
    for i, window in enumerate(windows):
        groups.setdefault(len(window), []).append(i)
    return list(groups.values())
