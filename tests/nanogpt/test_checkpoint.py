"""What is saved comes back exactly, or is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.checkpoint import (
    Progress,
    checkpoint_folder,
    checkpoints,
    load_model,
    load_state,
    save_model,
    save_state,
)
from nanogpt.model import GPT, GPTConfig
from nanogpt.optim import OptimConfig, build_optimizers

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


@pytest.fixture
def saved(
    tmp_path: Path, gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> Path:
    """A checkpoint of step 3."""
    model = seeded(gpt2)
    return save_state(tmp_path / "run", model, trained(model, adamw), progress(3, 3), IDENTITY)


@pytest.fixture
def load(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> Callable[..., Progress]:
    """Load a checkpoint into a new model."""

    def run(folder: Path, identity: dict[str, Any] = IDENTITY) -> Progress:
        model = seeded(gpt2)
        return load_state(folder, model, build_optimizers(model, adamw), identity)

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
    folder = save_state(tmp_path, models[0], optimizers[0], progress(5, 4), IDENTITY)
    assert load_state(folder, models[1], optimizers[1], IDENTITY) == progress(5, 4)
    for update in (False, True):
        if update:
            for model, ones in zip(models, optimizers, strict=True):
                for p in model.parameters():
                    p.grad = p.detach().sin()
                for one in ones:
                    one.step()
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p, q)


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
    with pytest.raises(ValueError, match=rf"step-00000003/{name} is damaged"):
        load(saved)


@pytest.mark.parametrize("content", ["", '{"version": 1,', "{}"])
def test_a_damaged_state_is_refused_by_name(
    saved: Path, load: Callable[..., Progress], content: str
) -> None:
    (saved / "state.json").write_text(content)
    with pytest.raises(ValueError, match="step-00000003"):
        load(saved)


def test_another_version_is_refused(saved: Path, load: Callable[..., Progress]) -> None:
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps({**state, "version": 2}))
    with pytest.raises(ValueError, match="step-00000003 has version 2, not 1"):
        load(saved)


def test_another_identity_is_refused_with_the_difference(
    saved: Path, load: Callable[..., Progress]
) -> None:
    assert load(saved, IDENTITY).step == 3
    with pytest.raises(ValueError, match=r"another training: seed was 1, is 2$"):
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
        save_state(tmp_path, model, optimizers, progress(step, best), IDENTITY)
        kept.append([int(path.name.removeprefix("step-")) for path in checkpoints(tmp_path)])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8], [8, 9]]
    assert checkpoint_folder(tmp_path, 9) == checkpoints(tmp_path)[-1]
    assert len(list(tmp_path.iterdir())) == 2


SAVE = """
import shutil
import torch
from nanogpt.checkpoint import *
from nanogpt.optim import OptimConfig, build_optimizers

torch.set_num_threads(1)
optim = OptimConfig(**json.loads((folder / "optim.json").read_text()))
model, run = load_model(folder / "model", torch.device("cpu")), folder / "run"
optimizers = build_optimizers(model, optim)

def save(step):
    with torch.no_grad():
        model.wte.weight.fill_(step)
    save_state(run, model, optimizers, Progress(step=step, best_step=1, best_loss=0.0), {})

def prepare():
    shutil.rmtree(run, ignore_errors=True)
    for step in (1, 2, 3):
        save(step)

def act():
    save(4)

def look():
    steps = []
    for checkpoint in checkpoints(run)[-2:]:
        step = load_state(checkpoint, model, optimizers, {}).step
        assert (model.wte.weight == step).all()
        steps.append(step)
    load_state(checkpoint_folder(run, 1), model, optimizers, {})
    save(step + 1)  # the training goes on
    assert load_state(checkpoints(run)[-1], model, optimizers, {}).step == step + 1
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
