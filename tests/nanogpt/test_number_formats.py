"""No product in a slow format: on a processor without bfloat16 all are in float32.

Machines with fast bfloat16 hide a product that is fixed to it, so these tests check every
operation of a training, an evaluation and a sample instead of at the clock.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.config import GPTConfig, Sampling, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.generate.decode import generate
from nanogpt.generate.gemv import decoding_copy
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import TrainEvent
from nanogpt.train.validation import evaluate_split

CPU = torch.device("cpu")
HALF = {torch.bfloat16, torch.float16}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "attention", "embedding_bag")
Training = Callable[..., Iterator[TrainEvent]]
Build = Callable[[GPTConfig], GPT]


class Products(TorchDispatchMode):
    """Remember the number formats of every product's operands."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: set[torch.dtype] = set()
        self.half: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        formats = {t.dtype for t in args if isinstance(t, torch.Tensor) and t.is_floating_point()}
        if any(product in name for product in PRODUCTS):
            self.formats |= formats
        if formats & HALF:
            self.half.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_nothing_of_a_float32_training_is_in_a_half_format(
    config: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, optimizer: str
) -> None:
    plan = replace(plan, optim=replace(plan.optim, optimizer=optimizer))  # type: ignore[arg-type]
    runtime = Runtime(device=CPU, dtype=torch.float32)
    with Products() as seen:
        list(training(seeded(config), plan, runtime=runtime))
    assert seen.formats == {torch.float32}
    assert not seen.half


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_a_training_are_in_the_format_asked_for(
    modern: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, dtype: torch.dtype
) -> None:
    """Muon's are in float32 where that is float16, whose range is too small for it."""
    plan = replace(plan, optim=replace(plan.optim, optimizer="muon"))
    with Products() as seen:
        list(training(seeded(modern), plan, runtime=Runtime(device=CPU, dtype=dtype)))
    expected = {dtype} if dtype == torch.bfloat16 else {dtype, torch.float32}
    assert seen.formats == expected


def test_nothing_of_a_float32_evaluation_or_sample_is_in_a_half_format(
    modern: GPTConfig, seeded: Build, val_stream: TokenStream, cpu: Runtime
) -> None:
    model = seeded(replace(modern, n_embd=256, n_layer=1))  # wide enough for rows to be streamed
    with Products() as seen:
        evaluate_split(model, val_stream, runtime=cpu)
        copied = decoding_copy(model, cpu)
        prompts = [torch.tensor([49])]
        list(generate(copied, prompts, 3, sampling=Sampling(), seeds=[1]))
    assert seen.formats == {torch.float32}
    assert not seen.half
