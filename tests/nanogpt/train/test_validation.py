"""A whole split, every token once, against sums by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import GPTConfig
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.validation import (
    Evaluation,
    LossAccumulator,
    bits_per_byte,
    evaluate_split,
    split_windows,
)

SEPARATOR = 49


def random_tokens(n: int) -> list[int]:
    """Ids that are no separator."""
    return np.random.default_rng(5).integers(0, SEPARATOR, n).tolist()


def losses_by_hand(model: GPT, stream: TokenStream, block_size: int) -> list[list[float]]:
    """Each window's losses, one token at a time, none of them in a batch."""
    tokens = [SEPARATOR, *stream.read(0, len(stream)).tolist()]
    windows = []
    for start in range(0, len(stream), block_size):
        losses = []
        for t in range(start + 1, min(start + block_size, len(stream)) + 1):
            logits = model(torch.tensor([tokens[start:t]]))[0, -1].double()
            losses.append(-logits.log_softmax(0)[tokens[t]].item())
        windows.append(losses)
    return windows


@pytest.mark.parametrize("block_size", [None, 5])
@torch.no_grad()
def test_whole_split_equals_sums_by_hand(
    config: GPTConfig,
    block_size: int | None,
    val_stream: TokenStream,
    cpu: Runtime,
    lively: Callable[[GPTConfig], GPT],
) -> None:
    model = lively(config)
    windows = losses_by_hand(model, val_stream, block_size or 16)
    flat = [loss for window in windows for loss in window]
    result = evaluate_split(model, val_stream, runtime=cpu, block_size=block_size)
    assert result.tokens == len(flat) == 203
    assert result.loss == pytest.approx(np.mean(flat), abs=1e-6)
    assert result.loss_by_position.shape == (block_size or 16,)
    for position, loss in enumerate(result.loss_by_position):
        there = [window[position] for window in windows if position < len(window)]
        assert loss == pytest.approx(np.mean(there), abs=1e-5)


@settings(deadline=None)
@given(n_tokens=st.integers(1, 300), block_size=st.integers(1, 40), data=st.data())
def test_every_token_counts_once_with_the_context_that_is_promised(
    n_tokens: int, block_size: int, data: st.DataObject
) -> None:
    """A loss that is the token's own index shows where each one went."""
    stride = data.draw(st.integers(1, block_size))
    sums = LossAccumulator(n_tokens, block_size, stride)
    counted = np.zeros(n_tokens, dtype=int)
    for start in split_windows(n_tokens, block_size, stride):
        stop = min(start + block_size, n_tokens)
        before = sums.runs[1].clone()
        sums.add([start], torch.arange(start, stop, dtype=torch.float64)[None])
        new = range(stop - int((sums.runs[1] - before).sum()), stop)
        counted[list(new)] += 1
        assert start == 0 or min(new) - start >= block_size - stride
    assert counted.tolist() == [1] * n_tokens
    own = range(n_tokens)
    assert sums.runs[0].sum() == sums.positions[0].sum() == sum(own)
    runs = [sum(own[i : i + block_size]) for i in range(0, n_tokens, block_size)]
    assert sums.runs[0].tolist() == runs
    assert sums.runs[1].sum() == sums.positions[1].sum() == n_tokens


@pytest.mark.parametrize("stride", [1, 3, 7, 16])
@torch.no_grad()
def test_a_stride_equals_predicting_token_by_token(
    config: GPTConfig, stride: int, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    """Each token from its window's start on; with a stride of 1 from all the model takes."""
    model, tokens = lively(config), [SEPARATOR, *random_tokens(61)]
    losses, positions = [], []
    for t in range(1, 62):  # of tokens, the separator in front
        windows_on = max(0, math.ceil((t - 16) / stride))
        start = windows_on * stride
        logits = model(torch.tensor([tokens[start:t]]))[0, -1].double()
        losses.append(-logits.log_softmax(0)[tokens[t]].item())
        positions.append(t - 1 - start)
    result = evaluate_split(
        model,
        TokenStream([np.array(tokens[1:])]),
        runtime=cpu,
        batch_tokens=48,
        stride=stride,
    )
    assert result.tokens == 61
    assert result.loss == pytest.approx(np.mean(losses), abs=1e-6)
    for position, loss in enumerate(result.loss_by_position):
        there = [loss for loss, p in zip(losses, positions, strict=True) if p == position]
        assert loss == pytest.approx(np.mean(there), abs=1e-5)


def test_a_stride_of_the_windows_length_changes_nothing(
    config: GPTConfig, val_stream: TokenStream, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    def found(stride: int | None) -> list[float]:
        result = evaluate_split(lively(config), val_stream, runtime=cpu, stride=stride)
        return [result.loss, result.standard_error, result.tokens, *result.loss_by_position]

    assert found(16) == found(None)


@pytest.mark.parametrize("batch_tokens", [1, 16, 48, 100_000])
def test_any_batch_gives_the_same(
    config: GPTConfig,
    batch_tokens: int,
    val_stream: TokenStream,
    cpu: Runtime,
    lively: Callable[[GPTConfig], GPT],
) -> None:
    model = lively(config)
    expected = evaluate_split(model, val_stream, runtime=cpu)
    result = evaluate_split(model, val_stream, runtime=cpu, batch_tokens=batch_tokens)
    assert result.tokens == expected.tokens
    assert result.loss == pytest.approx(expected.loss, abs=1e-6)
    assert result.standard_error == pytest.approx(expected.standard_error, abs=1e-6)
    np.testing.assert_allclose(result.loss_by_position, expected.loss_by_position, atol=1e-5)


@torch.no_grad()
def test_some_windows_are_spread_evenly(
    gpt2: GPTConfig, val_stream: TokenStream, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    model = lively(gpt2)
    windows = losses_by_hand(model, val_stream, 16)  # 13 of them

    def some(n: int) -> Evaluation:
        return evaluate_split(model, val_stream, runtime=cpu, max_windows=n)

    assert some(3).tokens == 48
    assert some(3).loss == pytest.approx(np.mean(windows[0] + windows[4] + windows[8]), abs=1e-6)
    assert some(1).standard_error == 0
    assert some(1000).tokens == 203


def test_standard_error_is_that_of_the_mean_over_windows(
    gpt2: GPTConfig, val_stream: TokenStream, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    model = lively(gpt2)
    whole = TokenStream([val_stream.read(0, 192)])  # 12 equal windows
    with torch.no_grad():
        means = [np.mean(window) for window in losses_by_hand(model, whole, 16)]
    result = evaluate_split(model, whole, runtime=cpu)
    by_hand = np.std(means, ddof=1) / math.sqrt(12)
    assert result.standard_error == pytest.approx(by_hand, rel=1e-5)


def test_evaluation_drops_nothing_and_leaves_the_model_as_it_was(
    gpt2: GPTConfig, val_stream: TokenStream, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    losses = []
    for training in (True, False):
        model = lively(replace(gpt2, dropout=0.5)).train(training)
        result = evaluate_split(model, val_stream, runtime=cpu)
        losses.append(result.loss)
        assert model.training is training
        assert all(p.grad is None for p in model.parameters())
    assert losses[0] == losses[1]


def test_shards_of_another_tokenizer_are_refused(
    gpt2: GPTConfig, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    stream = TokenStream([np.array([1, 2, 63, 3])])  # 63 is in the padding: no index error
    with pytest.raises(ValueError, match="token id 63 is beyond the model's vocabulary of 50"):
        evaluate_split(lively(gpt2), stream, runtime=cpu)


def test_bits_per_byte_of_known_codes() -> None:
    assert bits_per_byte(math.log(2), n_tokens=10, n_bytes=10) == pytest.approx(1)
    assert bits_per_byte(math.log(256), n_tokens=10, n_bytes=10) == pytest.approx(8)
    assert bits_per_byte(math.log(256), n_tokens=10, n_bytes=40) == pytest.approx(2)
