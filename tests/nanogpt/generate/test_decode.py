"""Sampling against the model computed afresh for every token, and rows against the same alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from nanogpt.config import GPTConfig, Sampling
from nanogpt.generate import decode as module
from nanogpt.generate.decode import (
    apply_repetition_penalty,
    candidates,
    decode_one_token,
    generate,
    next_logits,
    prefill,
    sample,
    uniforms,
)
from nanogpt.generate.gemv import decoding_copy
from nanogpt.model.cache import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime

GREEDY = Sampling(temperature=0.0)
FREE = Sampling()
PROMPTS = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([9, 2, 6, 5, 35])]
CPU = torch.device("cpu")

Build = Callable[[GPTConfig], GPT]
Write = Callable[..., torch.Tensor]


def some_prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 50, (length,), generator=generator) for length in lengths]


@pytest.fixture
def write(config: GPTConfig, lively: Build) -> Write:
    """(B, T) tokens after prompts, from a model of each family in turn."""
    model = lively(config)

    def run(
        sampling: Sampling,
        n: int = 10,
        prompts: Sequence[torch.Tensor] = PROMPTS,
        seeds: Sequence[int] | None = None,
        **more: object,
    ) -> torch.Tensor:
        seeds = range(len(prompts)) if seeds is None else seeds
        steps = generate(model, prompts, n, sampling=sampling, seeds=seeds, **more)
        return torch.stack(list(steps), dim=1)

    return run


def test_a_seed_gives_the_same_again(write: Write) -> None:
    assert torch.equal(write(FREE, seeds=[1, 2]), write(FREE, seeds=[1, 2]))
    assert not torch.equal(write(FREE, seeds=[1, 2]), write(FREE, seeds=[3, 4]))


@pytest.mark.parametrize("length", [1, 5, 16, 40])
@pytest.mark.parametrize("block_size", [1, 3, 16])
@torch.no_grad()
def test_greedy_equals_the_uncached_argmax_beyond_the_block(
    config: GPTConfig, block_size: int, length: int, lively: Build
) -> None:
    """When the block is full, its later half stays; of a longer prompt the last tokens count."""
    model = lively(replace(config, block_size=block_size))
    prompts, written = some_prompts(length, length), []
    context, half = torch.stack(prompts)[:, -block_size:], block_size // 2 or 1
    for token in generate(model, prompts, 40, sampling=GREEDY, seeds=[0, 0]):
        if context.size(1) > block_size:
            context = context[:, -half:]
        written.append((token, model(context)[:, -1].argmax(1)))
        context = torch.cat((context, token[:, None]), dim=1)
    assert len(written) == 40
    assert all(torch.equal(ours, expected) for ours, expected in written)


@pytest.mark.parametrize("changes", [{}, {"position": "rotary"}, {"position": "learned"}], ids=str)
@torch.no_grad()
def test_rows_of_unequal_length_have_the_logits_they_have_alone(
    config: GPTConfig, changes: dict, lively: Build
) -> None:
    model = lively(replace(config, **changes))
    prompts, following = some_prompts(3, 9, 1, 6), some_prompts(7, 7, 7, 7)
    cache = KVCache(model.config, 4, CPU, torch.float32)
    together = [prefill(model, prompts, cache, range(4))]
    together += [decode_one_token(model, t, cache) for t in torch.stack(following, dim=1)]
    for row, text in enumerate(map(torch.cat, zip(prompts, following, strict=True))):
        alone = model(text[None])[0, len(prompts[row]) - 1 :, :50]
        ours = torch.stack([logits[row] for logits in together])[:, :50]
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)
    assert cache.lengths == [10, 16, 8, 13]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_k=20, repetition_penalty=1.3)], ids=str)
def test_a_row_is_written_as_it_is_alone(write: Write, sampling: Sampling) -> None:
    """Token for token, long beyond the block, which each row fills at another time."""
    prompts, seeds = some_prompts(3, 16, 1, 40, 9), [5, 6, 7, 8, 9]
    together = write(sampling, n=45, prompts=prompts, seeds=seeds)
    for row, prompt in enumerate(prompts):
        alone = write(sampling, n=45, prompts=[prompt], seeds=[seeds[row]])
        assert torch.equal(together[row], alone[0]), row


def test_stopped_rows_repeat_and_all_of_them_end_it(write: Write) -> None:
    free = write(FREE, n=60)
    stops = [int(free[0, 7]), int(free[1, 20])]
    firsts = [next(i for i, t in enumerate(row.tolist()) if t in stops) for row in free]
    stopped = write(FREE, n=60, stop_tokens=stops)
    assert stopped.size(1) == max(firsts) + 1 < 60
    for row, first in enumerate(firsts):
        assert torch.equal(stopped[row, : first + 1], free[row, : first + 1])
        assert (stopped[row, first:] == free[row, first]).all()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1),
        Sampling(top_p=1e-6),
        Sampling(min_p=1.0),
        Sampling(temperature=1e-3),
    ],
    ids=["top_k=1", "top_p tiny", "min_p=1", "cold"],
)
def test_narrow_sampling_is_greedy(write: Write, sampling: Sampling) -> None:
    assert torch.equal(write(sampling, n=20), write(GREEDY, n=20))


def test_padding_tokens_are_never_sampled(write: Write) -> None:
    tokens = write(Sampling(temperature=1e4), n=60, prompts=PROMPTS[:1] * 40)
    assert tokens.shape == (40, 60)
    assert tokens.max() < 50
    assert len(tokens.unique()) == 50  # all others are


@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 1000])
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_probabilities_sum_to_one(
    temperature: float, min_p: float, top_p: float, top_k: int | None
) -> None:
    logits = 3 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    logits[:, 50:] = -torch.inf
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probabilities, ids = candidates(logits, sampling)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    assert (probabilities >= 0).all()
    assert (ids[probabilities > 0] < 50).all()
    if top_k is not None:
        assert ((probabilities > 0).sum(1) <= top_k).all()


def test_filters_keep_the_likeliest_and_their_proportions() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    cases = [
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_k=3, top_p=0.75), [0, 4 / 7, 0, 3 / 7]),  # top_p of what top_k left
        (Sampling(min_p=0.45), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(min_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(temperature=0.0, top_k=3), [0.0, 1.0, 0.0, 0.0]),
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
    ]
    for sampling, expected in cases:
        probabilities, ids = candidates(logits, sampling)
        spread = torch.zeros(1, 4).scatter(1, ids, probabilities)
        torch.testing.assert_close(spread, torch.tensor([expected]), msg=str(sampling))


def test_top_p_of_zero_keeps_the_likeliest() -> None:
    probabilities, ids = candidates(torch.tensor([[0.1, 0.6, 0.3]]).log(), Sampling(top_p=0.0))
    assert ids[0, probabilities[0] > 0].tolist() == [1]


def test_tokens_are_drawn_where_the_cumulated_probability_passes_the_number() -> None:
    logits = torch.tensor([[0.25, 0.0, 0.5, 0.25, 0.0]]).log().expand(6, -1)
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24])
    assert sample(logits, numbers, FREE).tolist() == [0, 0, 2, 2, 3, 3]


def test_the_numbers_are_spread_evenly_and_differ_by_seed_and_place() -> None:
    numbers = torch.stack([uniforms(range(200), i) for i in range(100)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(numbers.unique()) > 19_950  # of 20,000; some of 2^24 meet by chance
    shares = torch.histc(numbers, bins=10, min=0, max=1) / 20_000
    assert ((shares - 0.1).abs() < 5 * (0.1 * 0.9 / 20_000) ** 0.5).all()


def test_what_was_written_is_penalised_whatever_its_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, -torch.inf], [2.0, -2.0, 1.0, -torch.inf]])
    lower = apply_repetition_penalty(logits, torch.tensor([[0, 1, 0, 3], [2, 2, 2, 2]]), 2.0)
    assert lower.tolist() == [[1, -4, 1, -torch.inf], [2, -2, 0.5, -torch.inf]]


def test_the_penalty_falls_on_prompt_and_new_tokens_of_the_row(
    config: GPTConfig, lively: Build
) -> None:
    model, prompts, penalty = lively(config), some_prompts(2, 6), 1.5
    steps = generate(
        model, prompts, 10, sampling=replace(GREEDY, repetition_penalty=penalty), seeds=[0, 0]
    )
    written = torch.stack(list(steps), dim=1).tolist()
    for prompt, row in zip(prompts, written, strict=True):
        text = prompt.tolist()
        for token in row:
            with torch.no_grad():
                scores = model(torch.tensor([text]))[0, -1]
            for seen in set(text):
                scores[seen] *= penalty if scores[seen] < 0 else 1 / penalty
            assert token == scores.argmax()
            text.append(token)


def test_samples_follow_the_model(gpt2: GPTConfig, lively: Build) -> None:
    """4,000 first tokens are as frequent as they are likely."""
    model = lively(gpt2)
    (first,) = generate(model, PROMPTS[:1] * 4000, 1, sampling=FREE, seeds=range(4000))
    with torch.no_grad():
        probabilities = model(PROMPTS[0][None])[0, -1].softmax(0)
    frequencies = torch.bincount(first, minlength=64) / 4000
    deviations = (probabilities * (1 - probabilities) / 4000).sqrt()
    assert ((frequencies - probabilities).abs() <= 5 * deviations).all()


def test_nothing_is_dropped_while_generating(gpt2: GPTConfig, lively: Build) -> None:
    runs = []
    for training in (True, False):
        model = lively(replace(gpt2, dropout=0.5)).train(training)
        runs.append(torch.stack(list(generate(model, PROMPTS, 10, sampling=GREEDY, seeds=[0, 0]))))
    assert torch.equal(*runs)


def test_bfloat16_generates_too(config: GPTConfig, lively: Build) -> None:
    model = decoding_copy(lively(config), Runtime(device=CPU, dtype=torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tokens = torch.stack(list(generate(model, PROMPTS, 20, sampling=FREE, seeds=[0, 1])))
    assert tokens.max() < 50
    with torch.no_grad():
        near = (model(PROMPTS[0][None]) - lively(config)(PROMPTS[0][None]))[..., :50]
    assert near.abs().max() < 0.3


def test_one_graph_of_fixed_shapes_serves_every_step(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured whole, never again at another length; the compiler behind it is left out here."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    captured = torch.compile(next_logits, fullgraph=True, dynamic=False, backend=count)
    monkeypatch.setattr(module, "compiled_next_logits", lambda: captured)
    prompts = some_prompts(3, 12, 16)
    compiled = write(FREE, n=40, prompts=prompts, compile=True)
    assert torch.equal(compiled, write(FREE, n=40, prompts=prompts))
    assert len(graphs) == 1
