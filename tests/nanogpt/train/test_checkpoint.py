"""What is saved comes back exactly, or is refused by name."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
import torch

from nanogpt.config import GPTConfig, OptimConfig
from nanogpt.model.files import load_model, save_model
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers
from nanogpt.train.checkpoint import (
    CheckpointWriter,
    Progress,
    TrainingState,
    checkpoint_folder,
    checkpoints,
    copy_state,
    link_model,
    load_state,
    save_state,
)

CPU = torch.device("cpu")
IDENTITY = {"seed": 1, "train": {"lr": 0.1}}


def progress(step: int, best_step: int | None = None) -> Progress:
    return Progress(step=step, best_step=best_step, best_loss=None if best_step is None else 1.5)


def trained(model: GPT, optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """Optimizers with something in their state."""
    optimizers = build_optimizers(model, optim)
    model(torch.arange(16)[None], torch.arange(1, 17)[None]).backward()
    for optimizer in optimizers:
        optimizer.step()
    return optimizers


def state_of(
    model: GPT, optimizers: list[torch.optim.Optimizer], progress: Progress, **scaler: float
) -> TrainingState:
    """A copy of the state of a training."""
    state = copy_state(model, optimizers, progress, scaler=scaler)
    assert state is not None
    return state


@pytest.fixture
def saved(
    tmp_path: Path, gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> Path:
    """A checkpoint of step 3."""
    model = seeded(gpt2)
    state = state_of(model, trained(model, adamw), progress(3, 3), scale=1024.0)
    return save_state(tmp_path / "run", state, IDENTITY)


@pytest.fixture
def load(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> Callable[..., Progress]:
    """Load a checkpoint into a new model."""

    def run(folder: Path, identity: dict[str, Any] = IDENTITY) -> Progress:
        model = seeded(gpt2)
        return load_state(folder, model, build_optimizers(model, adamw), identity)[0]

    return run


def test_a_model_comes_back_exactly(
    tmp_path: Path, config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    for tied in (True, False):
        model = lively(replace(config, tie_weights=tied))
        save_model(tmp_path, model)
        again = load_model(tmp_path, CPU).eval()
        assert again.config == model.config
        for (name, p), (again_name, q) in zip(
            model.named_parameters(), again.named_parameters(), strict=True
        ):
            assert name == again_name
            assert torch.equal(p, q)
        idx = torch.arange(16)[None]
        assert torch.equal(model(idx), again(idx))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json, model\.safetensors missing"):
        load_model(tmp_path, CPU)


def test_weights_of_other_names_are_refused(
    tmp_path: Path, gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    save_model(tmp_path, seeded(gpt2))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "bias": False}))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit the model's config"):
        load_model(tmp_path, CPU)


def test_weights_of_another_shape_are_refused(
    tmp_path: Path, gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    """Copying would broadcast one position over all of them."""
    save_model(tmp_path, seeded(replace(gpt2, block_size=1)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "block_size": 16}))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_model(tmp_path, CPU)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_state_comes_back_exactly(
    tmp_path: Path,
    config: GPTConfig,
    adamw: OptimConfig,
    optimizer: str,
    seeded: Callable[[GPTConfig], GPT],
    lively: Callable[[GPTConfig], GPT],
) -> None:
    """The weights, and the next update, which the optimizer's state decides."""
    optim = replace(adamw, optimizer=optimizer)
    models = [seeded(config), lively(config)]
    optimizers = [trained(models[0], optim), build_optimizers(models[1], optim)]
    scaler = {"scale": 65536.0, "growth_tracker": 7.0}
    state = state_of(models[0], optimizers[0], progress(5, 4), **scaler)
    folder = save_state(tmp_path, state, IDENTITY)
    assert load_state(folder, models[1], optimizers[1], IDENTITY) == (progress(5, 4), scaler)
    for update in (False, True):
        if update:
            for model, ones in zip(models, optimizers, strict=True):
                for p in model.parameters():
                    p.grad = p.detach().sin()
                for one in ones:
                    one.step()
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p, q)


def test_the_state_is_a_copy(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    """Optimizers change weights and moments in place while a checkpoint is being written."""
    model = seeded(gpt2)
    optimizers = trained(model, adamw)
    state = state_of(model, optimizers, progress(1))
    before = {**state.weights, **state.optimizer}
    bits = {name: tensor.clone() for name, tensor in before.items()}
    for optimizer in optimizers:
        optimizer.step()
    assert all(torch.equal(tensor, bits[name]) for name, tensor in before.items())
    later = state_of(model, optimizers, progress(2))
    after = {**later.weights, **later.optimizer}
    assert not any(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["tampered", "truncated", "missing"])
def test_a_damaged_file_is_refused_by_name(
    saved: Path, load: Callable[..., Progress], name: str, damage: str
) -> None:
    content = (saved / name).read_bytes()
    if damage == "missing":
        (saved / name).unlink()
    elif damage == "truncated":
        (saved / name).write_bytes(content[:-7])
    else:
        (saved / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    state = "missing" if damage == "missing" else "damaged"
    with pytest.raises(ValueError, match=rf"step-00000003/{name} is {state}; delete .*step-0000"):
        load(saved)


def test_the_model_is_copied_out_of_a_whole_checkpoint_only(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    link_model(saved, tmp_path / "out")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (saved / name).read_bytes()
    (saved / "model.safetensors").write_bytes(b"")
    way_out = f"delete {saved.parent} to train this model again"
    with pytest.raises(ValueError, match=rf"model\.safetensors is damaged; {re.escape(way_out)}"):
        link_model(saved, tmp_path / "out")
    shutil.rmtree(saved)
    with pytest.raises(ValueError, match=rf"state\.json is missing; {re.escape(way_out)}"):
        link_model(saved, tmp_path / "out")


@pytest.mark.parametrize("content", ["", '{"version": 1,', "{}"])
def test_a_damaged_state_is_refused_by_name(
    saved: Path, load: Callable[..., Progress], content: str
) -> None:
    (saved / "state.json").write_text(content)
    with pytest.raises(ValueError, match="step-00000003"):
        load(saved)


def test_another_version_is_refused(saved: Path, load: Callable[..., Progress]) -> None:
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps({**state, "version": 1}))
    with pytest.raises(ValueError, match="step-00000003 has version 1, not 2; delete"):
        load(saved)


def test_another_identity_is_refused_with_the_difference(
    saved: Path, load: Callable[..., Progress]
) -> None:
    assert load(saved, IDENTITY).step == 3
    with pytest.raises(ValueError, match=r"a different run: seed was 1, is 2$"):
        load(saved, {**IDENTITY, "seed": 2})
    with pytest.raises(ValueError, match=r"data was None, is 'x'; train was \{'lr': 0.1\}, is "):
        load(saved, {"seed": 1, "train": {"lr": 0.2}, "data": "x"})


def test_the_newest_two_and_the_best_are_kept(
    tmp_path: Path, gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    model = seeded(gpt2)
    optimizers = build_optimizers(model, adamw)
    kept = []
    for step, best in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6), (7, 6), (8, 6), (9, None)]:
        save_state(tmp_path, state_of(model, optimizers, progress(step, best)), IDENTITY)
        kept.append([int(path.name.removeprefix("step-")) for path in checkpoints(tmp_path)])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8], [8, 9]]
    assert checkpoint_folder(tmp_path, 9) == checkpoints(tmp_path)[-1]
    assert len(list(tmp_path.iterdir())) == 2


class Held(Mapping[str, Any]):
    """An identity that can be read only once `released`; it holds up the writer that asks."""

    def __init__(self) -> None:
        self.released = Event()

    def __getitem__(self, key: str) -> Any:
        return IDENTITY[key]

    def __iter__(self) -> Iterator[str]:
        assert self.released.wait(timeout=30)
        return iter(IDENTITY)

    def __len__(self) -> int:
        return len(IDENTITY)


@pytest.fixture
def states(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> list[TrainingState]:
    """The states after steps 1 and 2."""
    model = seeded(gpt2)
    optimizers = trained(model, adamw)
    return [state_of(model, optimizers, progress(step)) for step in (1, 2)]


def test_a_checkpoint_is_written_meanwhile(
    tmp_path: Path, states: list[TrainingState], load: Callable[..., Progress]
) -> None:
    identity = Held()
    with CheckpointWriter(tmp_path, identity) as writer:
        writer.start(states[0])
        assert list(writer.finished(wait=False)) == []
        assert checkpoints(tmp_path) == []
        identity.released.set()
        path = checkpoint_folder(tmp_path, 1)
        assert list(writer.finished(wait=True)) == [(1, path)]
        assert list(writer.finished(wait=True)) == []
        assert load(path) == progress(1)
        writer.start(None)  # a process that does not write
        assert list(writer.finished(wait=True)) == []
        writer.start(states[1])
    assert checkpoints(tmp_path) == [path, checkpoint_folder(tmp_path, 2)]


@pytest.mark.parametrize("error", [None, KeyError, GeneratorExit])
def test_whatever_ends_a_training_waits_for_its_checkpoint(
    tmp_path: Path, states: list[TrainingState], error: type[BaseException] | None
) -> None:
    identity = Held()
    try:
        with CheckpointWriter(tmp_path, identity) as writer:
            writer.start(states[0])
            Timer(0.05, identity.released.set).start()
            if error is not None:
                raise error
    except (KeyError, GeneratorExit):
        pass
    assert checkpoints(tmp_path) == [checkpoint_folder(tmp_path, 1)]


def test_a_full_disk_is_reported_and_leaves_the_checkpoint_before(
    tmp_path: Path,
    states: list[TrainingState],
    load: Callable[..., Progress],
    full_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    message = r"step-00000002.part/model.safetensors cannot be written: .*File too large"
    before = save_state(tmp_path, states[0], IDENTITY)
    with full_disk():
        with CheckpointWriter(tmp_path, IDENTITY) as writer:
            writer.start(states[1])
            with pytest.raises(OSError, match=message):
                list(writer.finished(wait=True))
        for ending in (None, GeneratorExit()):  # nobody asked: it is raised at the end
            with pytest.raises(OSError, match=message), CheckpointWriter(tmp_path, {}) as writer:
                writer.start(states[1])
                if ending:
                    raise ending
        with pytest.raises(KeyError) as caught, CheckpointWriter(tmp_path, {}) as writer:
            writer.start(states[1])
            raise KeyError
        assert "the checkpoint being written failed" in caught.value.__notes__[0]
    assert list(tmp_path.iterdir()) == [before]
    assert load(before) == progress(1)


SAVE = """
import shutil
import torch
from nanogpt.model.files import load_model
from nanogpt.train.checkpoint import *
from nanogpt.optim.optimizers import OptimConfig, build_optimizers

torch.set_num_threads(1)
optim = OptimConfig(**json.loads((folder / "optim.json").read_text()))
model, run = load_model(folder / "model", torch.device("cpu")), folder / "run"
optimizers = build_optimizers(model, optim)

def save(step):
    with torch.no_grad():
        model.wte.weight.fill_(step)
    progress = Progress(step=step, best_step=1, best_loss=0.0)
    save_state(run, copy_state(model, optimizers, progress), {})

def prepare():
    shutil.rmtree(run, ignore_errors=True)
    for step in (1, 2, 3):
        save(step)

def act():
    save(4)

def look():
    steps = []
    for checkpoint in checkpoints(run)[-2:]:
        step = load_state(checkpoint, model, optimizers, {})[0].step
        assert (model.wte.weight == step).all()
        steps.append(step)
    load_state(checkpoint_folder(run, 1), model, optimizers, {})
    save(step + 1)  # training continues
    assert load_state(checkpoints(run)[-1], model, optimizers, {})[0].step == step + 1
    assert len(checkpoints(run)) == 3
    return steps
"""


def test_kill_9_leaves_the_newest_two_and_the_best(
    tmp_path: Path,
    modern: GPTConfig,
    adamw: OptimConfig,
    seeded: Callable[[GPTConfig], GPT],
    found_after_kills: Callable[[str], list[Any]],
) -> None:
    """Saving step 4 is killed before each of its changes to the disk in turn."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", seeded(modern))
    (tmp_path / "optim.json").write_text(json.dumps(vars(adamw)))
    found = found_after_kills(SAVE)
    assert len(found) > 15
    before, after = found.count([2, 3]), found.count([3, 4])
    assert found == [[2, 3]] * before + [[3, 4]] * after
    assert before > 5
    assert after > 1


KILL_AT_RANDOM = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from nanogpt.model.files import load_model
from nanogpt.train.checkpoint import *
from nanogpt.optim.optimizers import OptimConfig, build_optimizers

folder = Path(sys.argv[1])
torch.set_num_threads(1)
optim = OptimConfig(**json.loads((folder / "optim.json").read_text()))
model, run = load_model(folder / "model", torch.device("cpu")), folder / "run"
optimizers = build_optimizers(model, optim)

def write_for_ever(step, begun):
    with CheckpointWriter(run, {}) as writer:
        while True:
            step += 1
            with torch.no_grad():
                model.wte.weight.fill_(step)
            for _ in writer.finished(wait=True):
                os.write(begun, b"1")
            progress = Progress(step=step, best_step=1, best_loss=0.0)
            writer.start(copy_state(model, optimizers, progress))

chance, steps, torn = random.Random(1), [0], 0
for _ in range(20):
    reading, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_for_ever(steps[-1], begun)
    os.read(reading, 1)
    time.sleep(chance.uniform(0, 0.04))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    torn += any(run.glob(".*.part"))
    newest = 0
    for checkpoint in checkpoints(run):
        newest = load_state(checkpoint, model, optimizers, {})[0].step
        assert (model.wte.weight == newest).all()
    steps.append(newest)
print(json.dumps([steps, torn, len(checkpoints(run))]))
"""


def test_twenty_kills_at_random_moments_leave_whole_checkpoints(
    tmp_path: Path,
    modern: GPTConfig,
    adamw: OptimConfig,
    seeded: Callable[[GPTConfig], GPT],
    python: Callable[..., str],
) -> None:
    """Each kill hits a process that writes one after another; the next continues in its folder."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", seeded(modern))
    (tmp_path / "optim.json").write_text(json.dumps(vars(adamw)))
    steps, torn, kept = json.loads(python(KILL_AT_RANDOM, tmp_path))
    assert len(steps) == 21
    assert steps == sorted(set(steps))  # each process came further than the one before
    assert torn > 2  # some were in the middle of writing
    assert kept in (3, 4)  # the newest two and the best; one more when killed before its removal
