"""Training reads every window once per epoch, in an order that is a pure function."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data import TokenStream, WindowOrder, check_vocabulary, permute, read_windows

KEYS = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 2000), key=KEYS)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


def test_permute_shuffles_and_another_key_otherwise() -> None:
    images = [[permute(i, 500, key) for i in range(500)] for key in range(4)]
    for n, image in enumerate(images):
        neighbours = np.mean(np.abs(np.diff(image)) == 1)
        assert neighbours < 0.05  # chance is 2 / 500
        for other in [range(500), *images[:n]]:
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
    starts = [order.start(k) for k in range(epoch * n, (epoch + 1) * n)]
    assert sorted(starts) == list(range(min(starts), min(starts) + n * block_size, block_size))
    assert min(starts) >= 0
    assert max(starts) + block_size + 1 <= n_tokens
    assert n_tokens - n * block_size <= 2 * block_size  # what an epoch leaves out
    again = WindowOrder(n_tokens=n_tokens, block_size=block_size, seed=seed)
    assert [again.start(k) for k in reversed(range(epoch * n, (epoch + 1) * n))] == starts[::-1]


def test_epochs_and_seeds_differ_in_order_and_offset() -> None:
    epochs = []
    for seed in range(3):
        order = WindowOrder(n_tokens=60 * 32 + 1, block_size=32, seed=seed)
        n = order.windows_per_epoch
        epochs += [[order.start(e * n + i) for i in range(n)] for e in range(5)]
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 15
    assert len({min(epoch) for epoch in epochs}) > 8  # 32 offsets to choose from


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="16 tokens are too few for one window of 17"):
        WindowOrder(n_tokens=16, block_size=16, seed=0)
    assert WindowOrder(n_tokens=17, block_size=16, seed=0).start(3) == 0


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
    np.save(files[1], np.array([4, 5], dtype=np.uint32))
    stream = TokenStream.open(files)
    assert stream.read(0, 5).tolist() == [1, 2, 3, 4, 5]
    assert all(isinstance(shard, np.memmap) for shard in stream.shards)


def test_targets_are_one_token_later() -> None:
    x, y = read_windows(TokenStream([np.arange(20)]), [3, 0], block_size=4, vocab_size=20)
    assert x.tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]
    assert y.tolist() == [[4, 5, 6, 7], [1, 2, 3, 4]]
    assert x.dtype == y.dtype == torch.int64


def test_a_token_beyond_the_vocabulary_is_refused() -> None:
    stream = TokenStream([np.array([1, 2, 3, 50, 4])])
    with pytest.raises(ValueError, match="token id 50 is beyond the model's vocabulary of 50"):
        read_windows(stream, [0], block_size=4, vocab_size=50)
    read_windows(stream, [0], block_size=4, vocab_size=51)
    check_vocabulary(np.empty(0, dtype=np.int64), 50)
