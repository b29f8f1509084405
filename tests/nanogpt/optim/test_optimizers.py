"""The learning rate's shape, and which optimizer moves which weight how."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nanogpt.config import GPTConfig, OptimConfig
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers, lr_ratio, set_lr

SCHEDULES = ["cosine", "warmup_stable_decay"]
OPTIMIZERS = ["adamw", "muon"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_rises_stays_and_falls(adamw: OptimConfig, schedule: str) -> None:
    config = replace(adamw, schedule=schedule, warmup_steps=4, decay_steps=10, min_lr_ratio=0.1)
    ratios = [lr_ratio(step, config, 30) for step in range(31)]
    assert ratios[:4] == [0.25, 0.5, 0.75, 1.0]
    assert ratios[4:21] == [1.0] * 17
    assert all(a > b for a, b in pairwise(ratios[20:]))
    assert ratios[30] == pytest.approx(0.1)
    assert lr_ratio(1000, config, 30) == pytest.approx(0.1)


def test_schedules_differ_in_how_they_fall(adamw: OptimConfig) -> None:
    shape = {"warmup_steps": 0, "decay_steps": 8, "min_lr_ratio": 0.2}
    line = replace(adamw, schedule="warmup_stable_decay", **shape)
    wave = replace(adamw, schedule="cosine", **shape)
    for k in range(9):
        assert lr_ratio(k, line, 8) == pytest.approx(1 - 0.8 * k / 8)
        assert lr_ratio(k, wave, 8) == pytest.approx(0.6 + 0.4 * math.cos(math.pi * k / 8))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warmup_and_decay_it_is_constant(adamw: OptimConfig, schedule: str) -> None:
    config = replace(adamw, schedule=schedule, warmup_steps=0, decay_steps=0)
    assert [lr_ratio(step, config, 5) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_is_in_one_group_once(
    config: GPTConfig, adamw: OptimConfig, optimizer: str, seeded: Callable[[GPTConfig], GPT]
) -> None:
    for changed in (config, replace(config, tie_weights=not config.tie_weights, bias=True)):
        model = seeded(changed)
        held = [
            id(p)
            for one in build_optimizers(model, replace(adamw, optimizer=optimizer))
            for group in one.param_groups
            for p in group["params"]
        ]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in model.parameters()}


def test_muon_gets_the_matrices_inside_the_layers(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    model = seeded(gpt2)
    _, muon = build_optimizers(model, replace(adamw, optimizer="muon"))
    held = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in held}
    matrices = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert names == {f"h.{layer}.{matrix}.weight" for layer in (0, 1) for matrix in matrices}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_matrices_decay_and_vectors_never(
    gpt2: GPTConfig, adamw: OptimConfig, optimizer: str, seeded: Callable[[GPTConfig], GPT]
) -> None:
    """With zero gradients only the decay moves a weight."""
    model = seeded(gpt2)
    config = replace(adamw, optimizer=optimizer, learning_rate=0.1, muon_learning_rate=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for one in build_optimizers(model, replace(config, weight_decay=0.5)):
        one.step()
    for name, p in model.named_parameters():
        kept = 1 - 0.1 * 0.5 if p.ndim == 2 else 1.0
        torch.testing.assert_close(p.detach(), kept * before[name], msg=name)


def test_set_lr_is_a_share_of_the_peak(
    gpt2: GPTConfig, adamw: OptimConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    optimizers = build_optimizers(seeded(gpt2), replace(adamw, optimizer="muon"))
    for ratio in (0.5, 0.25, 1.0):  # of the peak, not of what it was before
        set_lr(optimizers, ratio)
        rates = [[group["lr"] for group in one.param_groups] for one in optimizers]
        assert rates == [[3e-3 * ratio] * 2, [0.02 * ratio]]
