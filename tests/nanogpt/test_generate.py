"""Sampling against the model computed afresh for every token."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nanogpt.generate import Sampling, filtered_probabilities, generate
from nanogpt.model import GPT, GPTConfig
from nanogpt.runtime import Runtime

GREEDY = Sampling(temperature=0.0, top_k=None, top_p=1.0)
FREE = Sampling(temperature=1.0, top_k=None, top_p=1.0)
PROMPT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 35]])

Sample = Callable[..., torch.Tensor]


@pytest.fixture
def sample(config: GPTConfig, cpu: Runtime, lively: Callable[[GPTConfig], GPT]) -> Sample:
    """(B, T) tokens after a prompt, from a model of each family in turn."""
    model = lively(config)

    def run(sampling: Sampling, n: int = 10, seed: int = 0, prompt: torch.Tensor = PROMPT):
        generator = torch.Generator().manual_seed(seed)
        tokens = generate(model, prompt, n, sampling=sampling, runtime=cpu, generator=generator)
        return torch.stack(list(tokens), dim=1)

    return run


def test_a_seed_gives_the_same_again(sample: Sample) -> None:
    assert torch.equal(sample(FREE, seed=1), sample(FREE, seed=1))
    assert not torch.equal(sample(FREE, seed=1), sample(FREE, seed=2))


@pytest.mark.parametrize("length", [1, 5, 16, 40])
@torch.no_grad()
def test_greedy_equals_the_uncached_argmax_beyond_the_block(
    sample: Sample, config: GPTConfig, length: int, lively: Callable[[GPTConfig], GPT]
) -> None:
    """When 16 tokens are full, the later 8 stay; of a longer prompt the last 16 count."""
    model = lively(config)
    prompt = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(3))
    context, expected = prompt[:, -16:], []
    for _ in range(40):
        if context.size(1) > 16:
            context = context[:, -8:]
        expected.append(model(context)[:, -1].argmax(1))
        context = torch.cat((context, expected[-1][:, None]), dim=1)
    assert torch.equal(sample(GREEDY, n=40, prompt=prompt), torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=1, top_p=1.0),
        Sampling(temperature=1.0, top_k=None, top_p=1e-6),
        Sampling(temperature=1e-3, top_k=None, top_p=1.0),
    ],
    ids=["top_k=1", "top_p tiny", "cold"],
)
def test_narrow_sampling_is_greedy(sample: Sample, sampling: Sampling) -> None:
    assert torch.equal(sample(sampling, n=20), sample(GREEDY, n=20))


def test_padding_tokens_are_never_sampled(sample: Sample) -> None:
    hot = Sampling(temperature=1e4, top_k=None, top_p=1.0)
    tokens = sample(hot, n=60, prompt=PROMPT[:1].expand(40, -1))
    assert tokens.shape == (40, 60)
    assert tokens.max() < 50
    assert len(tokens.unique()) == 50  # all others are


@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 1000])
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_probabilities_sum_to_one(temperature: float, top_k: int | None, top_p: float) -> None:
    logits = 3 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    logits[:, 50:] = -torch.inf
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    probabilities = filtered_probabilities(logits, sampling)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    assert (probabilities >= 0).all()
    assert (probabilities[:, 50:] == 0).all()
    if top_k is not None:
        assert ((probabilities > 0).sum(1) <= top_k).all()


def test_filters_keep_the_likeliest_and_their_proportions() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    cases = [
        (Sampling(temperature=1.0, top_k=2, top_p=1.0), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(temperature=1.0, top_k=None, top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(temperature=1.0, top_k=None, top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(temperature=0.5, top_k=None, top_p=1.0), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(temperature=0.0, top_k=3, top_p=1.0), [0.0, 1.0, 0.0, 0.0]),
    ]
    for sampling, expected in cases:
        torch.testing.assert_close(
            filtered_probabilities(logits, sampling), torch.tensor([expected]), msg=str(sampling)
        )


def test_top_p_of_zero_keeps_the_likeliest() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    probabilities = filtered_probabilities(logits, Sampling(temperature=1.0, top_k=None, top_p=0.0))
    assert probabilities.tolist() == [[0, 1, 0]]


def test_samples_follow_the_model(
    gpt2: GPTConfig, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    """20,000 first tokens are as frequent as they are likely."""
    model = lively(gpt2)
    many = PROMPT[:1].expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    (first,) = generate(model, many, 1, sampling=FREE, runtime=cpu, generator=generator)
    with torch.no_grad():
        probabilities = model(PROMPT[:1])[0, -1].softmax(0)
    frequencies = torch.bincount(first, minlength=64) / 20_000
    deviations = (probabilities * (1 - probabilities) / 20_000).sqrt()
    assert ((frequencies - probabilities).abs() <= 5 * deviations).all()


def test_nothing_is_dropped_while_generating(
    gpt2: GPTConfig, cpu: Runtime, lively: Callable[[GPTConfig], GPT]
) -> None:
    runs = []
    for training in (True, False):
        model = lively(replace(gpt2, dropout=0.5)).train(training)
        generator = torch.Generator().manual_seed(0)
        tokens = generate(model, PROMPT, 10, sampling=GREEDY, runtime=cpu, generator=generator)
        runs.append(torch.stack(list(tokens)))
    assert torch.equal(*runs)


def test_bfloat16_generates_too(config: GPTConfig, lively: Callable[[GPTConfig], GPT]) -> None:
    runtime = Runtime(device=torch.device("cpu"), dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    tokens = generate(
        lively(config), PROMPT, 20, sampling=FREE, runtime=runtime, generator=generator
    )
    assert torch.stack(list(tokens)).max() < 50
