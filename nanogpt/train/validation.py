"""The loss of a model on a full split: every token is predicted once, nothing is sampled.

Windows cover the stream side by side or, with a stride, overlapping. Each token is predicted from
those before it in its window, the very first from the end-of-text token that precedes every
document. The result is the same for any batch size and number of processes, up to rounding.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.data.prefetch import bounded_map
from nanogpt.data.stream import TokenStream, check_vocabulary
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Losses in nats per token. The standard error is over runs of block_size tokens."""

    loss: float
    standard_error: float
    tokens: int
    loss_by_position: NDArray[np.float64]  # (block_size,); position 0 has one token of context
    runs: NDArray[np.float64]  # (2, n): the summed loss and the tokens of each run of block_size


def bits_per_byte(loss: float, n_tokens: int, n_bytes: int) -> float:
    """Convert a loss in nats per token to bits per byte, which is comparable between tokenizers."""
    return loss * n_tokens / (math.log(2) * n_bytes)


def split_windows(n_tokens: int, block_size: int, stride: int) -> list[int]:
    """Return the index of each window's first target; only its last `stride` targets are counted.

    The first window counts in full. So every token counts once, and all but the first block_size of
    them are predicted from at least block_size - stride tokens.
    """
    return list(range(0, max(min(1, n_tokens), n_tokens - block_size + stride), stride))


def window_at(stream: TokenStream, start: int, block_size: int, eot_token: int) -> Tensor:
    """Read tokens [start - 1, start + block_size), (1 + targets,).

    At the start of the stream, the end-of-text token comes first.
    """
    stop = min(start + block_size, len(stream))
    tokens = stream.read(max(start - 1, 0), stop)
    return torch.from_numpy(np.concatenate(([eot_token], tokens)) if start == 0 else tokens)


def evaluate_split(
    model: GPT,
    stream: TokenStream,
    *,
    runtime: Runtime,
    batch_tokens: int = 16_384,
    block_size: int | None = None,
    stride: int | None = None,
    max_windows: int | None = None,
    pool: Executor | None = None,
) -> Evaluation:
    """Evaluate a model on the full split, or on max_windows windows spread evenly over it.

    For the arguments see `evaluate_in_batches`.
    """
    *_, evaluation = evaluate_in_batches(
        model,
        stream,
        runtime=runtime,
        batch_tokens=batch_tokens,
        block_size=block_size,
        stride=stride,
        max_windows=max_windows,
        pool=pool,
    )
    assert evaluation is not None  # the last one
    return evaluation


def evaluate_in_batches(
    model: GPT,
    stream: TokenStream,
    *,
    runtime: Runtime,
    batch_tokens: int = 16_384,
    block_size: int | None = None,
    stride: int | None = None,
    max_windows: int | None = None,
    pool: Executor | None = None,
) -> Iterator[Evaluation | None]:
    """Yield None after each batch of an evaluation, and the evaluation in the end.

    block_size is the length of a window, by default the model's; stride is the distance between the
    starts of windows, by default their length. With a pool, its threads share the batches, which
    are the same as without. Raises ValueError at a token beyond the vocabulary.
    """
    block_size = block_size or model.config.block_size
    stride = stride or block_size
    starts = split_windows(len(stream), block_size, stride)
    if max_windows is not None and max_windows < len(starts):
        starts = [starts[i * len(starts) // max_windows] for i in range(max_windows)]
    own = range(runtime.rank, len(starts), runtime.world_size)  # this process's windows
    sums = LossAccumulator(len(stream), block_size, stride)
    was_training = model.training
    model.eval()

    def window_losses(starts: list[int]) -> tuple[list[int], Tensor]:
        """Return the starts of equally long windows and their losses (B, T)."""
        windows = [window_at(stream, start, block_size, model.config.eot_token) for start in starts]
        rows = torch.stack(windows)  # (B, 1 + T)
        check_vocabulary(rows.numpy(), model.config.vocab_size)
        rows = rows.to(runtime.device)
        with torch.inference_mode(), runtime.autocast():
            losses = model(rows[:, :-1], rows[:, 1:], reduction="none")
        return starts, losses.cpu().double()

    full = [starts[i] for i in own if starts[i] + block_size <= len(stream)]
    short = [starts[i] for i in own if starts[i] + block_size > len(stream)]  # the last, if any
    groups = [*batches(full, max(1, batch_tokens // block_size)), *batches(short, 1)]
    results: Iterator[tuple[list[int], Tensor]] = map(window_losses, groups)
    if pool is not None:
        results = bounded_map(pool, window_losses, groups, runtime.workers)
    for group, losses in results:
        sums.add(group, losses)
        yield None
    model.train(was_training)
    yield sums.summarize(runtime)


class LossAccumulator:
    """Sums of losses and tokens, by run of block_size tokens and by position in the window."""

    def __init__(self, n_tokens: int, block_size: int, stride: int) -> None:
        self.block_size = block_size
        self.repeated = block_size - stride  # first targets of a window, counted by the one before
        self.runs = torch.zeros(2, math.ceil(n_tokens / block_size), dtype=torch.float64)
        self.positions = torch.zeros(2, block_size, dtype=torch.float64)  # (losses, tokens)

    def add(self, starts: list[int], losses: Tensor) -> None:
        """Add the losses (B, T) of the windows with these starts."""
        first = torch.tensor(starts)[:, None]  # (B, 1)
        position = torch.arange(losses.size(1))  # (T,)
        counted = (position >= self.repeated) | (first == 0)  # (B, T)
        pairs = torch.stack((losses * counted, counted.double()))  # (2, B, T)
        run = (first + position)[counted] // self.block_size
        self.runs.index_add_(1, run, pairs[:, counted])
        self.positions[:, : len(position)] += pairs.sum(1)

    def summarize(self, runtime: Runtime) -> Evaluation:
        """Return the mean loss, its standard error (a ratio estimator) and the loss by position."""
        if runtime.distributed:
            for sums in (self.runs, self.positions):
                sums.copy_(runtime.all_reduce_sum(sums.to(runtime.device)).cpu())
        losses, counts = self.runs
        tokens, n = counts.sum(), int((counts > 0).sum())
        loss = losses.sum() / tokens
        residuals = losses - loss * counts  # zero for runs without a counted token
        variance = residuals.square().sum() / max(1, n - 1) * n / tokens.square()
        return Evaluation(
            loss=loss.item(),
            standard_error=math.sqrt(variance.item()),
            tokens=int(tokens.item()),
            loss_by_position=(self.positions[0] / self.positions[1].clamp(min=1)).numpy(),
            runs=self.runs.numpy(),
        )


def batches(starts: list[int], size: int) -> list[list[int]]:
    """Cut `starts` into batches of at most `size`."""
    return [starts[i : i + size] for i in range(0, len(starts), size)]
