"""The loop: golden losses, resuming, several processes, and the events it yields."""

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from nanogpt.config import GPTConfig, TrainConfig
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.model.files import load_model
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import lr_ratio
from nanogpt.runtime import Runtime
from nanogpt.train.events import (
    CheckpointWritten,
    Ended,
    Evaluated,
    Started,
    StepDone,
    TrainEvent,
    Working,
)
from nanogpt.train.skipped_data import SkippedData
from nanogpt.train.trainer import NotFinite
from nanogpt.train.validation import evaluate_split

CPU = torch.device("cpu")
Training = Callable[..., Iterator[TrainEvent]]
Build = Callable[[GPTConfig], GPT]

# Update these numbers only in a change that means to alter the initialisation, the order of the
# data, the model or the optimizer, and say so in its message; any other change must keep them.
# They are AdamW's: Muon multiplies in bfloat16, which differs by 1e-4 between processors.
# fmt: off
GOLDEN = {
    "gpt2": [3.932867, 3.926502, 3.854009, 3.816867, 3.760121,
             3.675592, 3.619661, 3.596459, 3.551663, 3.547007],
    "modern": [3.930202, 3.872739, 3.771968, 3.704445, 3.643865,
               3.561221, 3.518976, 3.477471, 3.439087, 3.429360],
}
# fmt: on


def losses(events: Iterable[TrainEvent]) -> dict[int, float]:
    """The loss of each step."""
    return {event.step: event.loss for event in events if isinstance(event, StepDone)}


def test_the_first_ten_losses_are_golden(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    family = "gpt2" if config.tie_weights else "modern"
    found = list(losses(training(seeded(config), plan)).values())
    assert found == pytest.approx(GOLDEN[family], abs=1e-4)


def test_events_come_in_order(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    """A checkpoint is reported when it is complete, which takes the time it takes."""
    events = list(training(seeded(config), plan))
    shown = [(type(event), getattr(event, "step", None)) for event in events]
    expected: list[tuple[type, int | None]] = [(Started, 0)]
    for step in range(1, 11):
        expected += [(StepDone, step), *([(Evaluated, step)] if step in (4, 8, 10) else [])]
    written = [one for one in shown if one[0] is CheckpointWritten]
    assert [one for one in shown if one[0] not in (CheckpointWritten, Working)] == [
        *expected,
        (Ended, None),
    ]
    assert {step for kind, step in shown if kind is Working} >= {4, 8, 10}  # while evaluating
    assert written == [(CheckpointWritten, step) for step in (4, 8, 10)]
    for step, following in ((4, 8), (8, 10)):
        place = shown.index((CheckpointWritten, step))
        assert shown.index((Evaluated, step)) < place < shown.index((CheckpointWritten, following))


def test_events_say_what_happened(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    val_stream: TokenStream,
    cpu: Runtime,
) -> None:
    model, best, best_step = seeded(gpt2), float("inf"), 0
    for event in training(model, plan):
        match event:
            case Started():
                assert event == Started(step=0, micro_batch=4, accumulation=2)
            case StepDone():
                peak = plan.optim.learning_rate
                assert event.lr == peak * lr_ratio(event.step - 1, plan.optim, 10)
                assert event.grad_norm > 0
                assert 0 < event.loader_seconds < event.seconds
            case Evaluated():
                some = evaluate_split(model, val_stream, runtime=cpu, max_windows=4)
                assert event.loss == some.loss  # on eval_tokens, 64
                assert event.is_best == (event.loss < best)
                if event.is_best:
                    best, best_step = event.loss, event.step
            case CheckpointWritten():
                assert load_model(event.path, CPU).config == gpt2
            case Ended():
                assert event.finished
                assert (event.progress.step, event.progress.best_step) == (10, best_step)
                assert event.progress.best_loss == best


def test_a_worse_evaluation_is_not_the_best(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    """The validation split of a constant that training has never seen gets worse."""
    unseen = TokenStream([np.full(100, 48)])
    seen = TokenStream([np.arange(300) % 40])
    events = list(training(seeded(gpt2), plan, train_stream=seen, val_stream=unseen))
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluated] == [True, False, False]
    assert events[-1].progress.best_step == 4


@pytest.mark.parametrize(
    ("micro_batch_tokens", "last"),
    [(128, 2), (64, 1)],  # an update of one micro-batch is finished, one of two abandoned
)
def test_a_stop_ends_with_a_checkpoint(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    micro_batch_tokens: int,
    last: int,
) -> None:
    events = training(seeded(gpt2), plan, stop_after=1, micro_batch_tokens=micro_batch_tokens)
    *_, done, written, ended = events
    assert isinstance(done, StepDone)
    assert isinstance(written, CheckpointWritten)
    assert (done.step, written.step, ended.progress.step, ended.finished) == (*3 * (last,), False)


@pytest.mark.parametrize(
    ("passes", "checkpoints", "workers"),
    [
        (3, [], 1),  # in the first update, which has eight micro-batches
        (8 + 2, [1], 1),
        (4 * 8 + 2, [4], 1),  # there is one of the evaluation already
        (8 + 2, [1], 2),
    ],
)
def test_a_stop_abandons_an_update_between_micro_batches(
    config: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    cpu: Runtime,
    passes: int,
    checkpoints: list[int],
    workers: int,
) -> None:
    """What it has added up is dropped, and the rest of the training is the same bits."""
    arguments = {"micro_batch_tokens": 16, "runtime": replace(cpu, workers=workers)}
    whole, model, stop = seeded(config), seeded(config), Event()
    list(training(whole, plan, folder="whole", **arguments))
    done = 0

    def count(module: GPT, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal done
        done += module.training
        if done == passes:
            stop.set()

    model.register_forward_pre_hook(count)
    *events, ended = training(model, plan, stop=stop, **arguments)
    assert done == passes
    assert [e.step for e in events if isinstance(e, CheckpointWritten)] == checkpoints
    assert (ended.progress.step, ended.finished) == (passes // 8, False)
    assert all(p.grad is None for p in model.parameters())
    resumed = seeded(config)
    list(training(resumed, plan, **arguments))
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_finished_training_has_nothing_more_to_do(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    *_, ended = training(seeded(gpt2), plan)
    assert list(training(seeded(gpt2), plan)) == [
        Started(step=10, micro_batch=4, accumulation=2),
        ended,
    ]


def test_a_checkpoint_that_cannot_be_written_ends_the_training(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    tmp_path: Path,
    full_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    """The one before is whole, and once there is room training continues from it."""
    expected = losses(training(seeded(gpt2), plan, folder="whole"))
    events = training(seeded(gpt2), plan)
    next(event for event in events if isinstance(event, CheckpointWritten))
    with full_disk(), pytest.raises(OSError, match=r"step-00000008.*cannot be written"):
        list(events)
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "step-00000004"]
    rest = losses(training(seeded(gpt2), plan))
    assert rest == {step: loss for step, loss in expected.items() if step > 4}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interrupted_equals_uninterrupted_bit_for_bit(
    config: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    seed: int,
) -> None:
    """Stopped or cut off at random steps, with dropout, Muon and accumulation."""
    rng = np.random.default_rng(seed)
    config = replace(config, dropout=0.1)
    plan = replace(plan, optim=replace(plan.optim, optimizer="muon"), max_steps=14)
    whole = seeded(config)
    expected = losses(training(whole, plan, folder="whole", micro_batch_tokens=32))

    found: dict[int, float] = {}
    model, sessions, ended = seeded(config), 0, None
    while not isinstance(ended, Ended) or not ended.finished:
        torch.manual_seed(seed)  # what a new process would have there means nothing
        last = max(found, default=0) + int(rng.integers(1, 5))
        cut_off = bool(rng.integers(2))  # the process dies; else it is asked to stop
        events = training(
            model, plan, folder="cut", micro_batch_tokens=32, stop_after=None if cut_off else last
        )
        for ended in events:
            if isinstance(ended, StepDone):
                assert found.setdefault(ended.step, ended.loss) == ended.loss
                if cut_off and ended.step == last:
                    break
        events.close()
        if not (isinstance(ended, Ended) and ended.finished):
            model, sessions = seeded(config), sessions + 1
    assert sessions >= 2
    assert found == expected
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_dropout_differs_from_step_to_step_and_seed_to_seed(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    """On one window for ever and at a learning rate of almost nothing, only dropout moves."""
    stream = TokenStream([np.arange(17)])
    still = replace(plan, optim=replace(plan.optim, learning_rate=1e-30, weight_decay=0.0))
    config = replace(gpt2, dropout=0.5)
    runs = [
        losses(
            training(
                seeded(config), replace(still, seed=seed), folder=str(seed), train_stream=stream
            )
        )
        for seed in (1, 2)
    ]
    assert len({loss for run in runs for loss in run.values()}) == 20


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_window_is_learnt_by_heart(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, optimizer: str
) -> None:
    tokens = TokenStream([np.random.default_rng(0).permutation(50)[:17]])
    optim = replace(
        plan.optim, optimizer=optimizer, learning_rate=0.01, decay_steps=20, weight_decay=0.0
    )
    plan = replace(plan, optim=optim, batch_tokens=16, max_steps=80, eval_interval=80)
    found = losses(training(seeded(config), plan, train_stream=tokens))
    assert found[1] > 3
    assert found[80] < 0.05


WAYS = {
    "one sequence": ({"micro_batch_tokens": 1}, {}),
    "two sequences": ({"micro_batch_tokens": 32}, {}),
    "two threads": ({"micro_batch_tokens": 128}, {"workers": 2}),
    "four threads": ({"micro_batch_tokens": 16}, {"workers": 4}),
    "recomputed": ({"micro_batch_tokens": 64}, {"recompute": True}),
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_how_an_update_is_cut_does_not_change_the_result(
    config: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    cpu: Runtime,
    dropout: float,
) -> None:
    """Losses and weights are those of one pass, and of a training that changes its way midway."""
    config = replace(config, dropout=dropout)
    whole = seeded(config)
    expected = losses(training(whole, plan, folder="whole", micro_batch_tokens=128))

    def assert_near(found: dict[int, float], model: GPT) -> None:
        assert found == pytest.approx(expected, abs=1e-5)
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=0)

    changing, halves = seeded(config), {}
    for number, (name, (arguments, changes)) in enumerate(WAYS.items(), start=1):
        way = {**arguments, "runtime": replace(cpu, **changes)}
        model = seeded(config)
        assert_near(losses(training(model, plan, folder=name, **way)), model)
        last = None if number == len(WAYS) else 2 * number - 1
        halves |= losses(training(changing, plan, folder="changing", stop_after=last, **way))
    assert_near(halves, changing)


def test_bfloat16_starts_from_the_same_loss_and_learns(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build
) -> None:
    half = Runtime(device=CPU, dtype=torch.bfloat16)
    expected = losses(training(seeded(config), plan))
    found = losses(training(seeded(config), plan, folder="half", runtime=half))
    assert found[1] == pytest.approx(expected[1], abs=0.01)
    assert found[10] < found[1] - 0.05


class Logged(TokenStream):
    """A stream that notes where it was read."""

    def __init__(self, stream: TokenStream) -> None:
        super().__init__(stream.shards)
        self.starts_read: list[int] = []

    def read_rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        self.starts_read += starts.tolist()
        return super().read_rows(starts, length)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_windows_of_an_epoch(
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    train_stream: TokenStream,
    world_size: int,
) -> None:
    """Each window is read by one of them, and every step reads the same for any number of them."""
    order = WindowOrder(n_tokens=1000, block_size=16, seed=plan.seed)
    expected = order.starts(np.arange(7 * 8))
    read = []
    for rank in range(world_size):
        runtime = Runtime(device=CPU, dtype=torch.float32, rank=rank, world_size=world_size)
        stream, short = Logged(train_stream), replace(plan, max_steps=7)
        arguments = {"train_stream": stream, "runtime": runtime, "folder": f"rank{rank}"}
        list(training(seeded(gpt2), short, micro_batch_tokens=32, **arguments))
        read.append(np.array(stream.starts_read).reshape(7, -1))
    steps = np.concatenate(read, axis=1)
    assert np.sort(steps).tolist() == np.sort(np.reshape(expected, (7, 8))).tolist()
    assert len(np.unique(steps)) == 7 * 8


def test_skipped_data_are_left_out_once_and_for_all_later_steps(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, train_stream: TokenStream
) -> None:
    """A run that is interrupted, before and after the gap, reads the same as one that is not."""
    order = WindowOrder(n_tokens=1000, block_size=16, seed=plan.seed)
    steps = [0, 1, 2, 3, *range(6, 12)]  # the last windows are of the next epoch: one has 61
    expected = np.concatenate([order.starts(np.arange(8 * step, 8 * step + 8)) for step in steps])
    gap = {"skipped": SkippedData(after_step=4, windows_of_steps=2)}
    whole, cut, stream = seeded(gpt2), seeded(gpt2), Logged(train_stream)
    found = losses(training(whole, plan, folder="whole", train_stream=stream, **gap))
    assert stream.starts_read == expected.tolist()
    parts: dict[int, float] = {}
    for last in (2, 6, None):
        cut = seeded(gpt2)
        parts |= losses(training(cut, plan, folder="cut", stop_after=last, **gap))
    assert parts == found
    for p, q in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_loss_that_is_not_finite_stops_with_its_step(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, tmp_path: Path
) -> None:
    optim = replace(plan.optim, learning_rate=1e30, warmup_steps=0)
    expected = r"^step 2: the (loss|gradient norm) is (nan|inf)"
    with pytest.raises(FloatingPointError, match=expected) as caught:
        list(training(seeded(config), replace(plan, optim=optim)))
    assert isinstance(caught.value, NotFinite)
    assert caught.value.step == 2
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_is_not_finite_stops_too(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, tmp_path: Path
) -> None:
    """The last update has no later loss to show what it did."""
    optim = replace(plan.optim, learning_rate=1e30, warmup_steps=0)
    # Its frames live on in `caught`; a thread left to the garbage collector can end in a deadlock.
    with pytest.raises(FloatingPointError, match=r"^step 1") as caught:
        list(training(seeded(gpt2), replace(plan, optim=optim, max_steps=1)))
    assert caught.tb is not None
    assert not (tmp_path / "run").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_that_is_not_finite_can_be_skipped_and_counted(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, optimizer: str
) -> None:
    """Gradients of the third and fifth update, two micro-batches each, are spoiled."""
    plan = replace(
        plan, non_finite="skip", max_steps=6, optim=replace(plan.optim, optimizer=optimizer)
    )
    model, passes, weights = seeded(config), 0, []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return gradient * math.inf if passes in (5, 9) else gradient

    model.wte.weight.register_hook(spoil)
    skipped = []
    for event in training(model, plan):
        if isinstance(event, StepDone):
            skipped.append(event.skipped)
            weights.append(model.wte.weight.detach().clone())
    assert skipped == [False, False, True, False, True, False]
    for step, was_skipped in enumerate(skipped[1:], start=1):
        assert torch.equal(weights[step], weights[step - 1]) == was_skipped
    assert weights[-1].isfinite().all()


def test_float16_scales_its_loss_and_resumes_with_its_scale(
    gpt2: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, cpu: Runtime
) -> None:
    half = replace(cpu, dtype=torch.float16)
    exact = [e.loss for e in training(seeded(gpt2), plan) if isinstance(e, StepDone)]
    whole = [
        e
        for e in training(seeded(gpt2), plan, runtime=half, folder="half")
        if isinstance(e, StepDone)
    ]
    assert [e.loss for e in whole] == pytest.approx(exact, abs=0.05)
    model = seeded(gpt2)
    first = list(training(model, plan, runtime=half, folder="two", stop_after=5))
    state = json.loads((first[-2].path / "state.json").read_text())
    assert state["scaler"]["scale"] == 65536.0
    rest = list(training(seeded(gpt2), plan, runtime=half, folder="two"))
    again = [e.loss for e in [*first, *rest] if isinstance(e, StepDone)]
    assert again == [e.loss for e in whole]


def test_recomputed_activations_change_nothing(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, cpu: Runtime
) -> None:
    config, plan = replace(config, dropout=0.2), replace(plan, max_steps=3)
    runs = []
    for recompute in (False, True):
        runtime, folder = replace(cpu, recompute=recompute), f"recompute-{recompute}"
        events = training(seeded(config), plan, runtime=runtime, folder=folder)
        runs.append([(e.loss, e.grad_norm) for e in events if isinstance(e, StepDone)])
    assert runs[0] == runs[1]
