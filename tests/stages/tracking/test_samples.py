"""Samples during training: they do not affect it, and take little of its time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import Evaluated, StepDone
from nanogpt.train.loop import train
from stages.tokenizers.tokenizer import CharTokenizer, save_tokenizer
from stages.tracking.samples import SampleTable, TrainingSamples, split_documents
from tests.tiny import MODERN, PLAN

CHARACTERS = "abcdefghijklmnopqrstuvwxyz ,.\n"
CONFIG = replace(
    MODERN,
    vocab_size=len(CHARACTERS) + 1,
    dropout=0.2,  # so that the mode and the random numbers matter
    zero_init_proj=False,
)
MUON = replace(
    PLAN,
    optim=replace(PLAN.optim, optimizer="muon"),
    batch_tokens=64,
    max_steps=12,
    eval_interval=3,
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Save a tokenizer; return its folder."""
    save_tokenizer(tmp_path / "tokenizer", CharTokenizer("".join(sorted(CHARACTERS))))
    return tmp_path / "tokenizer"


@pytest.fixture
def model() -> GPT:
    """Return an untrained model in training mode."""
    torch.manual_seed(0)
    return GPT(CONFIG).train()


class Clock:
    """A clock that advances when it is read, and when it is set."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def trained(folder: Path, write: Callable[[GPT], Callable[[], object]]) -> tuple[GPT, list[float]]:
    """Train for twelve steps, with a callback at each evaluation; return model and losses."""
    torch.manual_seed(3)
    model = GPT(CONFIG)
    draw = np.random.default_rng(0)
    streams = [TokenStream([draw.integers(0, 30, n).astype(np.uint16)]) for n in (2000, 300)]
    act, losses = write(model), []
    for event in train(
        model,
        *streams,
        MUON,
        runtime=Runtime(device=torch.device("cpu"), dtype=torch.float32),
        folder=folder,
        identity={},
        micro_batch_tokens=32,
        stop=Event(),
    ):
        if isinstance(event, StepDone | Evaluated):
            losses.append(event.loss)
        if isinstance(event, Evaluated):
            act()
    return model, losses


def test_samples_do_not_change_the_weights_bit_for_bit(tokenizer: Path, tmp_path: Path) -> None:
    written = []

    def with_samples(model: GPT) -> Callable[[], object]:
        samples = TrainingSamples(model, tokenizer, Clock(tick=0.0))  # time never runs out
        return lambda: written.append(samples.write())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    plain, plain_losses = trained(tmp_path / "plain", lambda model: lambda: None)
    sampled, losses = trained(tmp_path / "sampled", with_samples)
    torch.set_num_threads(threads)
    assert len(written) == 4
    assert all(written)
    assert losses == plain_losses
    for one, other in zip(plain.parameters(), sampled.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_of_the_model_is_restored(model: GPT, tokenizer: Path, mode: bool) -> None:
    model.train(mode)
    random = torch.random.get_rng_state()
    assert TrainingSamples(model, tokenizer).write()
    assert all(module.training == mode for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_same_weights_give_the_same_sample(model: GPT, tokenizer: Path) -> None:
    first, again = (TrainingSamples(model, tokenizer, Clock(tick=0.0)) for _ in range(2))
    text = first.write()
    assert again.write() == text
    assert text is not None
    assert (len(text), first.write()) == (60, text[:30])  # the next one is shorter


def test_a_sample_goes_on_into_the_next_document() -> None:
    assert split_documents([1, 2, 9, 9, 3], 9) == [[1, 2], [], [3]]
    assert split_documents([9], 9) == [[], []]


def test_samples_take_a_hundredth_of_the_time(model: GPT, tokenizer: Path) -> None:
    clock = Clock(tick=0.009)  # what a token takes
    samples = TrainingSamples(model, tokenizer, clock)
    clock.now = 100.0
    lengths = [len(text) if (text := samples.write()) else 0 for _ in range(5)]
    assert lengths[:2] == [60, 30]
    assert 10 <= lengths[2] < 30  # what was left of a second
    assert lengths[3:] == [0, 0]
    assert samples.spent <= 0.01 * clock.now + 0.05
    clock.now += 100.0
    assert len(samples.write() or "") == 30


def test_the_first_sample_is_short_if_there_is_no_time_yet(model: GPT, tokenizer: Path) -> None:
    samples = TrainingSamples(model, tokenizer, Clock(tick=0.01))
    assert len(samples.write() or "") == 10
    assert samples.write() is None


def test_a_table_drops_the_samples_after_the_step_a_training_resumes_from(tmp_path: Path) -> None:
    table = SampleTable(tmp_path)
    for step in (10, 20, 30):
        table.add(step, f"naïve {step}", 2.0, 5.0 - step / 10)
    again = SampleTable(tmp_path)
    again.start_after(20)
    again.add(30, "another", 1.00004, 1.5)
    content = json.loads(again.file.read_text(encoding="utf-8"))
    assert content["columns"] == ["step", "text", "bits_per_byte", "val_loss"]
    assert content["data"] == [
        [10, "naïve 10", 2.0, 4.0],
        [20, "naïve 20", 2.0, 3.0],
        [30, "another", 1.0, 1.5],
    ]
