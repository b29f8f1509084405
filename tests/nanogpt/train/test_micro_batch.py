"""The largest micro-batch that fits, on a model that runs out of memory as CUDA would say it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import GPTConfig
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.micro_batch import (
    default_micro_batch_tokens,
    find_micro_batch_size,
    micro_batch_sizes,
    peak_memory_bytes,
)


@settings(deadline=None)
@given(
    sequences=st.integers(1, 300),
    block_size=st.integers(1, 2048),
    world_size=st.integers(1, 16),
    limit=st.integers(1, 100_000),
)
def test_micro_batches_make_the_global_batch(
    sequences: int, block_size: int, world_size: int, limit: int
) -> None:
    batch_tokens = sequences * block_size * world_size
    sizes = micro_batch_sizes(batch_tokens, block_size, world_size, limit)
    assert sizes == [
        n
        for n in range(sequences, 0, -1)
        if sequences % n == 0 and (n == 1 or n * block_size <= limit)
    ]


def test_the_sizes_of_an_absurd_batch_take_no_time() -> None:
    assert micro_batch_sizes(8 * 10**18, 8, 1, 64) == [8, 5, 4, 2, 1]


@pytest.mark.parametrize(("batch_tokens", "world_size"), [(100, 1), (112, 2), (8, 1), (0, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch_tokens: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_tokens {batch_tokens} .*\(16 x {world_size}\)"):
        micro_batch_sizes(batch_tokens, 16, world_size, 64)


def room_for(sequences: int, model: GPT) -> None:
    """Make the model run out of memory at more sequences than that."""

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > sequences:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(check)


@pytest.mark.parametrize(("room", "expected"), [(100, 12), (12, 12), (11, 6), (2, 2), (1, 1)])
def test_the_largest_size_that_fits_is_taken(
    gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT], cpu: Runtime, room: int, expected: int
) -> None:
    model = seeded(replace(gpt2, dropout=0.1)).train()
    room_for(room, model)
    assert find_micro_batch_size(model, [12, 6, 4, 3, 2, 1], cpu) == expected
    assert all(p.grad is None for p in model.parameters())


def test_nothing_that_fits_is_refused_with_a_way_out(
    gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT], cpu: Runtime
) -> None:
    model = seeded(gpt2)
    room_for(0, model)
    with pytest.raises(ValueError, match="NANOGPT_RECOMPUTE=true"):
        find_micro_batch_size(model, [2, 1], cpu)


def test_many_tokens_at_once_are_for_devices_that_may_try_what_fits(cpu: Runtime) -> None:
    cuda = replace(cpu, device=torch.device("cuda"))
    sharded = replace(cuda, distributed=True, parallel="fsdp")
    assert default_micro_batch_tokens(cpu) == default_micro_batch_tokens(sharded) == 8_192
    assert (
        default_micro_batch_tokens(cuda)
        == default_micro_batch_tokens(replace(sharded, parallel="ddp"))
        == 65_536
    )


def test_peak_memory_is_more_than_what_is_held() -> None:
    held = torch.ones(1 << 27)  # half a GiB
    assert held.nbytes < peak_memory_bytes(torch.device("cpu")) < 1 << 40
