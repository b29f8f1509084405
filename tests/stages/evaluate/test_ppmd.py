"""The compressor as a baseline: what it encodes, and the bits it needs."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyppmd import Ppmd7Encoder

from nanogpt.data.stream import TokenStream
from stages.artifacts.shards import Shards
from stages.evaluate import ppmd

TEXT = "the king and queen of all the land did walk by night with sword in hand élan"
WORDS = TEXT.split()
Make = Callable[[dict[str, list[str]], Path], Shards]


def documents(n: int, seed: int) -> list[str]:
    """Return documents of made-up sentences; some characters take two bytes."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=200)) for _ in range(n)]


def joined(texts: list[str]) -> bytes:
    """Return the documents, each followed by a NUL byte."""
    return b"".join(text.encode() + b"\0" for text in texts)


TRAIN, VAL = documents(20, seed=0), documents(5, seed=1)


@pytest.fixture
def shards(make_shards: Make, tmp_path: Path) -> Shards:
    return make_shards({"train": TRAIN, "val": VAL}, tmp_path / "shards")


def added_bytes(train: bytes, val: bytes) -> int:
    """Return how many bytes `val` adds to the compressed size of `train`."""
    sizes = []
    for text in (train, train + val):
        encoder = Ppmd7Encoder(8, 1 << 26)
        sizes.append(len(encoder.encode(text)) + len(encoder.flush()))
    return sizes[1] - sizes[0]


@pytest.mark.parametrize("chunk", [7, 1 << 18])
def test_the_bits_are_those_added_by_the_validation_text(
    shards: Shards, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppmd, "CHUNK_TOKENS", chunk)
    coded = ppmd.encode(shards)
    assert coded.train_bytes == len(joined(TRAIN))
    expected = added_bytes(joined(TRAIN), joined(VAL))
    assert expected > 500
    assert abs(coded.val_bits / 8 - expected) <= 10


def test_text_like_the_training_text_needs_fewer_bits_than_other_text(
    make_shards: Make, tmp_path: Path
) -> None:
    other = ["".join(reversed(text)) for text in VAL]
    bits = [
        ppmd.encode(make_shards({"train": TRAIN, "val": val}, tmp_path / name)).val_bits
        for name, val in (("like", VAL), ("unlike", other))
    ]
    assert bits[0] < 0.95 * bits[1]


def test_the_last_bytes_of_a_long_text_are_used(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppmd, "CHUNK_TOKENS", 100)
    monkeypatch.setattr(ppmd, "TEXT_BYTES", 2_000)
    coded = ppmd.encode(shards)
    assert coded.train_bytes in (1_999, 2_000)  # a letter of two bytes is not cut in half
    expected = added_bytes(joined(TRAIN)[-coded.train_bytes :], joined(VAL))
    assert abs(coded.val_bits / 8 - expected) <= 10


@pytest.mark.parametrize("chunk", [3, 4, 100])
@pytest.mark.parametrize(
    ("n_bytes", "first"), [(0, 5), (1, 4), (2, 4), (3, 3), (4, 2), (5, 1), (6, 1), (7, 0), (99, 0)]
)
def test_the_end_of_a_stream_by_its_bytes(
    n_bytes: int, first: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppmd, "CHUNK_TOKENS", chunk)
    stream = TokenStream([np.array([1, 0, 0, 1, 0], dtype=np.uint16)])  # 2 + 1 + 1 + 2 + 1 bytes
    assert ppmd.first_token(stream, [b"a", "é".encode()], n_bytes) == first


@pytest.mark.parametrize(
    ("n_bytes", "memory"),
    [(1_000, 1 << 24), (5_000_000, 160_000_000), (10**9, 1 << 30), (10**12, 1 << 30)],
)
def test_memory_grows_with_the_text_between_bounds(n_bytes: int, memory: int) -> None:
    described = {"bytes": n_bytes - 100, "documents": 50, "tokens": 1}
    splits = {"train": described, "val": {"bytes": 0, "documents": 50, "tokens": 1}}
    assert ppmd.memory_limit(Shards(folder=Path("none"), manifest={"splits": splits})) == memory


def test_only_too_little_memory_changes_the_result(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = ppmd.encode(shards)
    monkeypatch.setattr(ppmd, "memory_limit", lambda shards: 1 << 26)
    assert ppmd.encode(shards) == coded
    monkeypatch.setattr(ppmd, "memory_limit", lambda shards: 1 << 14)  # it is full, and forgets
    assert ppmd.encode(shards).val_bits > 1.2 * coded.val_bits
