"""Reading ahead changes when windows are read, not which, and leaves no thread behind."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import GPTConfig, TrainConfig
from nanogpt.data import loader
from nanogpt.data.loader import micro_batches
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import Started, StepDone, TrainEvent

TOKENS = np.random.default_rng(0).integers(0, 50, 1000).astype(np.uint16)
ORDER = WindowOrder(n_tokens=1000, block_size=16, seed=7)

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """After each test here."""
    yield
    assert [thread.name for thread in threading.enumerate() if "reader" in thread.name] == []


def batches(
    stream: TokenStream, numbers: range, rank: int = 0, world_size: int = 1, micro: int = 4
):
    """The micro-batches of one process."""
    runtime = Runtime(
        device=torch.device("cpu"), dtype=torch.float32, rank=rank, world_size=world_size
    )
    return micro_batches(
        stream, ORDER, indices=numbers, micro_batch=micro, vocab_size=50, runtime=runtime
    )


@settings(deadline=None, max_examples=30)
@given(
    first=st.integers(0, 200),
    count=st.integers(0, 30),
    micro=st.integers(1, 5),
    world_size=st.integers(1, 4),
    chunk_tokens=st.integers(1, 400),
    data=st.data(),
)
def test_micro_batches_are_the_windows_of_the_order(
    first: int, count: int, micro: int, world_size: int, chunk_tokens: int, data: st.DataObject
) -> None:
    """For any share, from any point on, and however many are read at once."""
    rank = data.draw(st.integers(0, world_size - 1))
    numbers = range(first, first + count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "CHUNK_TOKENS", chunk_tokens)
        found = list(batches(TokenStream([TOKENS]), numbers, rank, world_size, micro))
    assert len(found) == count
    for m, (x, y, keys) in zip(numbers, found, strict=True):
        windows = (m * world_size + rank) * micro + np.arange(micro)
        begins = ORDER.starts(windows).tolist()
        assert x.tolist() == [TOKENS[start : start + 16].tolist() for start in begins]
        assert y.tolist() == [TOKENS[start + 1 : start + 17].tolist() for start in begins]
        assert x.dtype == y.dtype == torch.int64
        assert np.array_equal(keys, ORDER.dropout_keys(windows))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_tokens_of_any_width_are_read(dtype: type[np.integer]) -> None:
    (x, *_), *_ = batches(TokenStream([TOKENS.astype(dtype)]), range(3))
    assert x[0].tolist() == TOKENS[472 : 472 + 16].tolist()


def test_a_token_beyond_the_vocabulary_stops_the_training(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Callable[..., Iterator[TrainEvent]],
    seeded: Callable[[GPTConfig], GPT],
) -> None:
    stream = TokenStream([np.where(np.arange(1000) == 500, 60, TOKENS)])
    events = training(seeded(gpt2), plan, train_stream=stream)
    assert isinstance(next(events), Started)
    with pytest.raises(ValueError, match="token id 60 is beyond the model's vocabulary of 50"):
        next(events)


def test_no_thread_outlives_a_training(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Callable[..., Iterator[TrainEvent]],
    seeded: Callable[[GPTConfig], GPT],
) -> None:
    """Whether it comes to its end, is stopped, left, or fails itself."""

    def alive() -> int:
        return sum("reader" in thread.name for thread in threading.enumerate())

    seen = []
    for name, stop_after in (("whole", None), ("stopped", 2)):
        for event in training(seeded(gpt2), plan, folder=name, stop_after=stop_after):
            if isinstance(event, StepDone):
                seen.append(alive())
        assert alive() == 0
    assert max(seen) == 1
    events = training(seeded(gpt2), plan, folder="left")
    next(event for event in events if isinstance(event, StepDone))
    assert alive() == 1
    events.close()
    assert alive() == 0
    broken = seeded(gpt2)
    with torch.no_grad():
        broken.wte.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        list(training(broken, plan, folder="broken"))
