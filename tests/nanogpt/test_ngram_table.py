"""Hashed tables of n-grams: nothing at the start, causal, and the same with a cache."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanogpt.config import GPTConfig, Sampling
from nanogpt.flops import flops_per_token
from nanogpt.generate.decode import generate
from nanogpt.model.cache import KVCache
from nanogpt.model.files import load_model, save_model
from nanogpt.model.gpt import GPT, ngram_hashes

CPU = torch.device("cpu")
Build = Callable[[GPTConfig], GPT]


@pytest.fixture
def with_tables(modern: GPTConfig) -> GPTConfig:
    """A modern model with tables of pairs and triples."""
    return replace(modern, ngram_table=512, ngram_order=3)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 49, shape, generator=torch.Generator().manual_seed(0))


def test_tables_start_as_nothing(modern: GPTConfig, with_tables: GPTConfig, seeded: Build) -> None:
    plain, tabled = seeded(modern), seeded(with_tables)
    assert not any(p.any() for p in tabled.ngrams.parameters())
    tabled.load_state_dict(plain.state_dict(), strict=False)
    idx = tokens(2, 16)
    assert torch.equal(plain(idx), tabled(idx))


def test_a_row_is_chosen_by_the_last_tokens_and_nothing_else() -> None:
    idx = torch.tensor([[3, 7, 5, 9], [1, 7, 5, 9]])
    last = [idx, idx.roll(1, 1), idx.roll(2, 1)]
    pairs, triples = ngram_hashes(last, 1 << 20)
    assert torch.equal(pairs[0, 2:], pairs[1, 2:])  # (7, 5) and (5, 9) are in both
    assert triples[0, 2] != triples[1, 2]
    assert triples[0, 3] == triples[1, 3]
    assert pairs[0, 1] != pairs[1, 1]


def test_rows_are_spread_evenly() -> None:
    """All 2,304 pairs of 48 tokens in 256 rows: nine each, give or take."""
    a, b = (t.flatten() for t in torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij"))
    (rows,) = ngram_hashes([a, b], 256)
    counts = rows.bincount(minlength=256)
    assert counts.sum() == 48 * 48
    assert counts.max() <= 27
    assert (counts == 0).sum() <= 3


def test_no_token_sees_a_later_one(with_tables: GPTConfig, lively: Build) -> None:
    model, idx = lively(with_tables), tokens(1, 16)
    changed = idx.clone()
    changed[0, 9] = (idx[0, 9] + 1) % 49
    before, after = model(idx)[0], model(changed)[0]
    assert torch.equal(before[:9], after[:9])
    assert not torch.equal(before[9], after[9])


def test_rows_of_unequal_length_continue_with_a_cache_as_without(
    with_tables: GPTConfig, lively: Build
) -> None:
    model = lively(with_tables)
    prompts = [tokens(5), tokens(9)[2:]]
    steps = generate(model, prompts, 6, sampling=Sampling(temperature=0), seeds=[0, 0])
    written = torch.stack(list(steps), 1)
    for prompt, row in zip(prompts, written, strict=True):
        text = prompt
        for token in row:
            assert model(text[None])[0, -1].argmax() == token
            text = torch.cat((text, token[None]))


def test_a_cache_that_is_extended_gives_the_same_logits(
    with_tables: GPTConfig, lively: Build
) -> None:
    model, idx = lively(with_tables), tokens(2, 12)
    cache = KVCache(with_tables, 2, CPU, torch.float32)
    parts = [model(idx[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), model(idx), atol=1e-5, rtol=1e-5)


def test_tables_are_no_arithmetic(modern: GPTConfig, with_tables: GPTConfig, seeded: Build) -> None:
    plain, tabled = seeded(modern), seeded(with_tables)
    assert tabled.n_params() == plain.n_params() + 2 * 512 * 32
    assert flops_per_token(tabled) == flops_per_token(plain)


def test_a_model_with_tables_is_saved_and_loaded(
    with_tables: GPTConfig, lively: Build, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, folder = lively(with_tables), tmp_path_factory.mktemp("model")
    save_model(folder, model)
    assert torch.equal(load_model(folder, CPU)(tokens(1, 8)), model(tokens(1, 8)))
