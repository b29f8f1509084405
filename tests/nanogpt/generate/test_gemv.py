"""The copy to generate with, compared with the model it is a copy of."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from nanogpt.config import GPTConfig, Sampling
from nanogpt.generate import gemv as decoding
from nanogpt.generate.decode import generate
from nanogpt.generate.gemv import GemvLinear, decoding_copy
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

Build = Callable[[GPTConfig], GPT]


@pytest.fixture
def every_matrix_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MIN_GEMV_NUMEL", 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 24), (2, 5, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_linear_computes_the_same(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 10, bias=bias).to(dtype), torch.randn(shape).to(dtype)
    torch.testing.assert_close(GemvLinear(linear)(x), linear(x))


@pytest.mark.parametrize("n_columns", [1, 3, 8, 25])
def test_any_number_of_columns_is_cut_into_the_parts(n_columns: int) -> None:
    linear, x = nn.Linear(n_columns, 7), torch.randn(1, n_columns)
    torch.testing.assert_close(GemvLinear(linear)(x), linear(x))


def test_no_row_is_no_error() -> None:
    assert GemvLinear(nn.Linear(24, 10))(torch.zeros(0, 24)).shape == (0, 10)


def test_the_sum_does_not_depend_on_the_number_of_threads() -> None:
    linear, x = GemvLinear(nn.Linear(3000, 70)), torch.randn(1, 3000)
    before, sums = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        sums.append(linear(x))
    torch.set_num_threads(before)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@pytest.mark.usefixtures("every_matrix_is_large")
@pytest.mark.parametrize("tied", [True, False])
def test_a_decoding_copy_says_the_same(
    config: GPTConfig, tied: bool, lively: Build, cpu: Runtime
) -> None:
    model = lively(replace(config, tie_weights=tied))
    before, copied = model.lm_head.weight.stride(), decoding_copy(model, cpu)
    for idx in (torch.tensor([[3]]), torch.tensor([[3, 1, 4, 1], [9, 2, 6, 35]])):
        torch.testing.assert_close(copied(idx), model(idx), atol=1e-5, rtol=0)
    assert isinstance(copied.h[0].mlp.c_proj, GemvLinear)
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
    assert GemvLinear not in kinds
