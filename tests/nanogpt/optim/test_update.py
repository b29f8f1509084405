"""Gradients before they move the weights."""

from collections.abc import Callable

import pytest
import torch

from nanogpt.config import GPTConfig
from nanogpt.model.gpt import GPT
from nanogpt.optim.update import clip_gradients


def test_gradients_are_scaled_down_to_the_limit(
    gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    model = seeded(gpt2)
    for limit, expected in ((3.0, 3.0), (0.0, 10.0), (20.0, 10.0)):
        for p in model.parameters():
            p.grad = torch.ones_like(p) * 10 / model.n_params() ** 0.5
        assert clip_gradients(model, limit) == pytest.approx(10, rel=1e-4)
        left = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
        assert left == pytest.approx(expected, rel=1e-4)
