"""A model that learns as it reads: from the past alone, and for the better."""

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanogpt.config import GPTConfig, OptimConfig
from nanogpt.data.stream import TokenStream
from nanogpt.evaluate.adapt import adaptive_loss, adaptive_runtime, batches_in_order
from nanogpt.model.gpt import GPT
from nanogpt.parallel.threads import worker_pool
from nanogpt.runtime import Runtime
from nanogpt.train.validation import evaluate_split

Build = Callable[[GPTConfig], GPT]
SEPARATOR = 49


def read(model: GPT, stream: TokenStream, adamw: OptimConfig, cpu: Runtime, rate: float) -> float:
    return adaptive_loss(deepcopy(model), stream, adamw, runtime=cpu, rate=rate)


@pytest.mark.parametrize("n_tokens", [7, 16, 203, 1024])
def test_every_token_is_read_once_in_order(n_tokens: int) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    rows = list(batches_in_order(TokenStream([tokens]), 16, SEPARATOR))
    assert torch.cat([row[:, 1:].flatten() for row in rows]).tolist() == tokens.tolist()
    assert rows[0][0, 0] == SEPARATOR


def test_without_a_rate_it_is_the_plain_loss(
    config: GPTConfig, lively: Build, val_stream: TokenStream, adamw: OptimConfig, cpu: Runtime
) -> None:
    model = lively(config)
    plain = evaluate_split(model, val_stream, runtime=cpu).loss
    assert read(model, val_stream, adamw, cpu, rate=0.0) == pytest.approx(plain, rel=1e-6)


def test_it_learns_what_the_text_is_like(
    config: GPTConfig, seeded: Build, train_stream: TokenStream, adamw: OptimConfig, cpu: Runtime
) -> None:
    model = seeded(config)
    static = read(model, train_stream, adamw, cpu, rate=0.0)
    assert read(model, train_stream, adamw, cpu, rate=1.0) < static - 0.02


def test_nothing_is_learned_before_it_is_predicted(
    config: GPTConfig, seeded: Build, train_stream: TokenStream, adamw: OptimConfig, cpu: Runtime
) -> None:
    """The first update's tokens are predicted by the weights as they came."""
    model, first = seeded(config), TokenStream([train_stream.shards[0][:512]])
    static = read(model, first, adamw, cpu, rate=0.0)
    assert read(model, first, adamw, cpu, rate=1.0) == static


def test_two_threads_share_an_update(
    config: GPTConfig, seeded: Build, train_stream: TokenStream, adamw: OptimConfig, cpu: Runtime
) -> None:
    model, threads = seeded(config), set()
    alone = read(model, train_stream, adamw, cpu, rate=1.0)
    model.register_forward_hook(lambda *_: threads.add(threading.current_thread().name))
    with worker_pool(2) as pool:
        two = replace(cpu, workers=2)
        shared = adaptive_loss(model, train_stream, adamw, runtime=two, rate=1.0, pool=pool)
    assert any(name.startswith("worker") for name in threads)
    assert shared == pytest.approx(alone, rel=1e-3)


def test_two_threads_and_no_more_for_an_update_so_small(config: GPTConfig, seeded: Build) -> None:
    torch.set_num_threads(4)
    assert adaptive_runtime(seeded(config)).workers == 2
    torch.set_num_threads(1)
    assert adaptive_runtime(seeded(config)).workers == 1
