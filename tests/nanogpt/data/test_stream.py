"""Training reads every window once per epoch, in an order that is a pure function."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream, check_vocabulary
from nanogpt.rng import mix, permute

KEYS = st.integers(0, 2**64 - 1)


def images(size: int, key: int) -> list[int]:
    """Where a permutation sends 0, 1, 2, ..."""
    return permute(np.arange(size, dtype=np.uint64), size, key).tolist()


def starts(order: WindowOrder, k: Sequence[int]) -> list[int]:
    """Where windows k start."""
    return order.starts(np.array(k, dtype=np.int64)).tolist()


def test_the_order_of_the_data_is_what_it_always_was() -> None:
    """Checkpoints count on it. The values are of a version in Python's integers."""
    assert mix(1, 2, 3) == 7702586659592502839
    assert mix(2**64 - 1, 5) == 3846658174030194800
    assert images(10, key=1234567890123456789) == [0, 1, 9, 8, 7, 3, 5, 6, 4, 2]
    few = permute(np.array([0, 1, 2**40], dtype=np.uint64), 2**40 + 7, key=99)
    assert few.tolist() == [867245375586, 914654685362, 625509633005]
    small = WindowOrder(n_tokens=1000, block_size=16, seed=7)
    assert starts(small, [0, 1, 2, 59, 60, 61, 62, 1000, 10**9]) == [
        *(472, 360, 392, 936, 488, 176, 96, 811, 743)
    ]
    large = WindowOrder(n_tokens=9 * 10**9, block_size=1024, seed=2**63 - 1)
    expected = [7669845357, 8081015149, 2457452909, 8556524881]
    assert starts(large, [0, 1, 2, 10**9]) == expected


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 2000), key=KEYS)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(images(size, key)) == list(range(size))


def test_permute_shuffles_and_another_key_otherwise() -> None:
    shuffled = [images(500, key) for key in range(4)]
    for n, image in enumerate(shuffled):
        neighbors = np.mean(np.abs(np.diff(image)) == 1)
        assert neighbors < 0.05  # chance is 2 / 500
        for other in [range(500), *shuffled[:n]]:
            assert abs(np.corrcoef(image, other)[0, 1]) < 0.2  # chance is 0.045


@settings(deadline=None, max_examples=60)
@given(
    block_size=st.integers(1, 40),
    extra=st.integers(1, 1500),
    seed=KEYS,
    epoch=st.integers(0, 1000),
)
def test_an_epoch_is_covered_without_gap_or_repeat(
    block_size: int, extra: int, seed: int, epoch: int
) -> None:
    n_tokens = block_size + extra
    order = WindowOrder(n_tokens=n_tokens, block_size=block_size, seed=seed)
    n = order.windows_per_epoch
    found = starts(order, range(epoch * n, (epoch + 1) * n))
    assert sorted(found) == list(range(min(found), min(found) + n * block_size, block_size))
    assert min(found) >= 0
    assert max(found) + block_size + 1 <= n_tokens
    assert n_tokens - n * block_size <= 2 * block_size  # what an epoch leaves out
    again = WindowOrder(n_tokens=n_tokens, block_size=block_size, seed=seed)
    assert starts(again, range((epoch + 1) * n - 1, epoch * n - 1, -1)) == found[::-1]


def test_epochs_and_seeds_differ_in_order_and_offset() -> None:
    epochs = []
    for seed in range(3):
        order = WindowOrder(n_tokens=60 * 32 + 1, block_size=32, seed=seed)
        n = order.windows_per_epoch
        epochs += np.split(order.starts(np.arange(5 * n)), 5)
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 15
    assert len({min(epoch) for epoch in epochs}) > 8  # 32 offsets to choose from


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="16 tokens are too few for one window of 17"):
        WindowOrder(n_tokens=16, block_size=16, seed=0)
    assert starts(WindowOrder(n_tokens=17, block_size=16, seed=0), [3]) == [0]


@settings(deadline=None)
@given(shards=st.lists(st.lists(st.integers(0, 65_535), max_size=8), max_size=6), data=st.data())
def test_reading_across_shards_equals_their_concatenation(
    shards: list[list[int]], data: st.DataObject
) -> None:
    stream = TokenStream([np.array(shard, dtype=np.uint16) for shard in shards])
    whole = [token for shard in shards for token in shard]
    assert len(stream) == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    tokens = stream.read(start, stop)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == whole[start:stop]


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    files = [tmp_path / "b.npy", tmp_path / "a.npy"]
    np.save(files[0], np.array([1, 2, 3], dtype=np.uint16))
    np.save(files[1], np.array([4, 5], dtype=np.uint16))
    stream = TokenStream.open(files)
    assert stream.read(0, 5).tolist() == [1, 2, 3, 4, 5]
    assert all(isinstance(shard, np.memmap) for shard in stream.shards)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 8), min_size=1, max_size=6), data=st.data())
def test_rows_across_shards_equal_their_concatenation(
    sizes: list[int], data: st.DataObject
) -> None:
    whole = np.arange(1000, 1000 + sum(sizes), dtype=np.uint16)
    stream = TokenStream(np.split(whole, np.cumsum(sizes)[:-1]))
    length = data.draw(st.integers(0, len(whole)))
    first = st.lists(st.integers(0, len(whole) - length), max_size=10)
    begins = data.draw(first) if length else []
    rows = stream.read_rows(np.array(begins, dtype=np.int64), length or 1)
    assert rows.dtype == np.uint16
    assert rows.tolist() == [whole[start : start + length].tolist() for start in begins]


def test_files_of_different_types_are_refused() -> None:
    with pytest.raises(ValueError, match="different types"):
        TokenStream([np.arange(9, dtype=np.uint16), np.arange(9, dtype=np.uint32)])


def test_a_token_beyond_the_vocabulary_is_refused() -> None:
    tokens = np.array([1, 2, 3, 50, 4])
    with pytest.raises(ValueError, match="token id 50 is beyond the model's vocabulary of 50"):
        check_vocabulary(tokens, 50)
    check_vocabulary(tokens, 51)
    check_vocabulary(np.empty(0, dtype=np.int64), 50)
