"""The baselines of a model and what is reported about them."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt.evaluate import kneser_ney
from stages.artifacts.shards import Shards
from stages.evaluate import ppmd
from stages.evaluate.baselines import SEES, best, measure


def documents(n: int, seed: int) -> list[str]:
    """Return documents of made-up sentences."""
    text = "the king and queen of all the land did walk by night with sword in hand"
    draw = random.Random(seed)
    return [" ".join(draw.choices(text.split(), k=200)) for _ in range(n)]


@pytest.fixture
def shards(make_shards: Callable[..., Shards], tmp_path: Path) -> Shards:
    return make_shards({"train": documents(6, 0), "val": documents(3, 1)}, tmp_path / "shards")


def test_each_has_a_name_a_loss_and_what_it_sees(shards: Shards) -> None:
    measured = measure(shards)
    assert list(measured) == list(SEES)
    assert all(baseline.read == {} for baseline in measured.values())
    losses = [measured[name].loss for name in ("uniform", "unigram", "bigram")]
    assert losses == sorted(losses, reverse=True)
    for name in ("kneser_ney", "ppmd"):
        assert measured[name].loss < measured["bigram"].loss


def test_bits_of_the_compressor_are_nats_of_the_tokens(shards: Shards) -> None:
    n_tokens = shards.manifest["splits"]["val"]["tokens"]
    expected = ppmd.encode(shards).val_bits * math.log(2) / n_tokens
    assert measure(shards)["ppmd"].loss == expected


def test_kneser_ney_is_counted_on_the_training_text(shards: Shards) -> None:
    n_vocab, eot_token = shards.manifest["n_vocab"], shards.manifest["separator"]
    model = kneser_ney.count(shards.stream("train"), n_vocab, eot_token)
    assert len(model.levels) == 5
    assert measure(shards)["kneser_ney"].loss == model.loss(shards.stream("val"))


def test_a_baseline_reports_how_much_of_the_training_split_it_used(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = measure(shards)
    monkeypatch.setattr(kneser_ney, "MAX_TOKENS", 700)
    monkeypatch.setattr(ppmd, "TEXT_BYTES", 900)
    parts = measure(shards)
    assert parts["kneser_ney"].read == {"train_tokens": 700}
    assert parts["ppmd"].read == {"train_bytes": 900}
    assert parts["bigram"] == everything["bigram"]
    for name in ("kneser_ney", "ppmd"):
        assert parts[name].loss > everything[name].loss


def test_the_best_needs_the_fewest_bits() -> None:
    scores = {"a": {"bits_per_byte": 2.0}, "b": {"bits_per_byte": 1.9}, "c": {"bits_per_byte": 3.0}}
    assert best(scores) == ("b", 1.9)
