"""The copy to generate with beside the model it is a copy of."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from nanogpt import decoding
from nanogpt.decoding import StreamedLinear, decoding_copy
from nanogpt.generate import Sampling, generate
from nanogpt.model import GPT, GPTConfig
from nanogpt.runtime import Runtime

Build = Callable[[GPTConfig], GPT]


@pytest.fixture
def every_matrix_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MIN_STREAMED", 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 24), (2, 5, 24)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_streamed_linear_computes_the_same(
    shape: tuple[int, ...], bias: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # the parts of a sum
    linear = nn.Linear(24, 10, bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(StreamedLinear(linear)(x), linear(x), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("every_matrix_is_large")
@pytest.mark.parametrize("tied", [True, False])
def test_a_decoding_copy_says_the_same(
    config: GPTConfig, tied: bool, lively: Build, cpu: Runtime
) -> None:
    model = lively(replace(config, tie_weights=tied))
    before, copied = model.lm_head.weight.stride(), decoding_copy(model, cpu)
    for idx in (torch.tensor([[3]]), torch.tensor([[3, 1, 4, 1], [9, 2, 6, 35]])):
        torch.testing.assert_close(copied(idx), model(idx), atol=1e-5, rtol=0)
    assert isinstance(copied.h[0].mlp.c_proj, StreamedLinear)
    assert isinstance(model.h[0].mlp.c_proj, nn.Linear)
    assert model.lm_head.weight.stride() == before
    assert (copied.lm_head.weight is copied.wte.weight) == tied
    assert copied.n_params() == model.n_params()


@pytest.mark.usefixtures("every_matrix_is_large")
def test_a_row_alone_is_written_as_by_the_model(
    config: GPTConfig, lively: Build, cpu: Runtime
) -> None:
    model, prompt = lively(config), [torch.tensor([3, 1, 4, 1, 5])]
    texts = [
        torch.stack(list(generate(gpt, prompt, 40, sampling=Sampling(), seeds=[7])))
        for gpt in (model, decoding_copy(model, cpu))
    ]
    assert torch.equal(*texts)


def test_small_matrices_stay_as_they_are(config: GPTConfig, lively: Build, cpu: Runtime) -> None:
    kinds = {type(module) for module in decoding_copy(lively(config), cpu).modules()}
    assert nn.Linear in kinds
    assert StreamedLinear not in kinds
