"""The model against Hugging Face's GPT-2, against itself and against what its docstring says."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from nanogpt.config import GPTConfig
from nanogpt.model.block import relu2
from nanogpt.model.cache import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.model.position import apply_rotary, rotary_cos_sin

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel  # importing takes seconds

CPU = torch.device("cpu")
SEPARATOR = 49
OPTIONS = [
    {},
    {"position": "rotary"},
    {"position": "learned"},
    {"norm": "layernorm", "bias": False},
    {"norm": "rmsnorm", "bias": True},
    {"qk_norm": True},
    {"activation": "relu2"},
    {"tie_weights": True, "logit_softcap": 5.0},
]


def some_tokens(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 50, (batch, time), generator=generator)


def influence(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    """(T, T) booleans: whether logits at t have a gradient by the embedding at s."""
    embedded: list[torch.Tensor] = []

    def keep(module: object, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.wte.register_forward_hook(keep)
    T = idx.size(1)
    logits = model(idx)[0, :, :50]  # (T, V)
    direction = torch.randn(50, generator=torch.Generator().manual_seed(2))
    found = torch.zeros(T, T)
    for t in range(T):
        embedded[0].grad = None
        (logits[t] @ direction).backward(retain_graph=True)
        found[t] = embedded[0].grad[0].abs().sum(-1)
    return found > 0


def as_ours(theirs: "GPT2LMHeadModel", config: GPTConfig) -> GPT:
    """Our model with the weights of Hugging Face's."""
    weights = theirs.transformer.state_dict()
    model = GPT(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            weight = weights[name]
            if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
                weight = weight.T  # theirs are Conv1D, (in, out)
            p[: len(weight)] = weight  # wte has padding rows that theirs has not
    return model


def test_gpt2_gives_the_logits_of_hugging_face(gpt2: GPTConfig) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    ).eval()
    with torch.no_grad():
        for p in theirs.parameters():  # no bias at zero, no gain at one
            p.add_(torch.randn_like(p), alpha=0.2)
    model, idx = as_ours(theirs, gpt2), some_tokens(3, 16)
    assert {n for n, p in model.named_parameters()} == {
        n.removeprefix("transformer.") for n, p in theirs.named_parameters()
    }
    with torch.no_grad():
        expected, logits = theirs(idx).logits, model(idx)[..., :50]
    assert expected.std() > 1
    assert (logits - expected).abs().max() <= 1e-4


def test_gpt2_has_the_published_number_of_parameters(gpt2: GPTConfig) -> None:
    with torch.device("meta"):
        shape = {"vocab_size": 50_257, "block_size": 1024, "n_layer": 12, "n_head": 12}
        small = GPT(replace(gpt2, n_embd=768, **shape))
    padding = (50_304 - 50_257) * 768
    assert small.n_params() - padding == 124_439_808


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_no_logit_depends_on_a_later_token(
    config: GPTConfig, changes: dict, lively: Callable[[GPTConfig], GPT]
) -> None:
    """The gradient of logits at t by the embedding at s is zero exactly where s > t."""
    T, model = 8, lively(replace(config, **changes))
    assert torch.equal(influence(model, some_tokens(1, T)), torch.ones(T, T).tril().bool())


def test_padding_logits_are_minus_infinity(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    logits = lively(config)(some_tokens(2, 5))
    assert logits.shape == (2, 5, 64)
    assert (logits[..., 50:] == -math.inf).all()
    assert logits[..., :50].isfinite().all()


def test_no_padding_where_the_vocabulary_needs_none(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    logits = lively(replace(config, vocab_size=64))(some_tokens(2, 5))
    assert logits.shape == (2, 5, 64)
    assert logits.isfinite().all()


def test_loss_is_cross_entropy_token_by_token(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    model, idx, targets = lively(config), some_tokens(3, 7), some_tokens(3, 7, seed=1)
    logits, losses = model(idx).double(), model(idx, targets, reduction="none")
    assert losses.shape == (3, 7)
    for b in range(3):
        for t in range(7):
            z = logits[b, t, :50]
            by_hand = z.exp().sum().log() - z[targets[b, t]]
            assert losses[b, t].item() == pytest.approx(by_hand.item(), abs=1e-5)


def three_documents() -> tuple[torch.Tensor, list[slice]]:
    """The end of a document, a whole one and the start of a third; where each is."""
    idx = some_tokens(1, 16).clamp(max=SEPARATOR - 1)
    idx[0, 4] = idx[0, 11] = SEPARATOR
    return idx, [slice(0, 4), slice(4, 11), slice(11, 16)]


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_masked_document_has_the_logits_it_has_alone(
    config: GPTConfig, position: str, lively: Callable[[GPTConfig], GPT]
) -> None:
    """Positions are of the window: learned ones would differ, were they not made all the same."""
    idx, documents = three_documents()
    models = []
    for mask_documents in (True, False):
        model = lively(replace(config, position=position, mask_documents=mask_documents))
        if model.wpe is not None:
            with torch.no_grad():
                model.wpe.weight.copy_(model.wpe.weight[:1].expand(16, -1))
        models.append(model)
    masked, unmasked = models
    whole, mixed = masked(idx), unmasked(idx)
    for document in documents:
        torch.testing.assert_close(whole[:, document], masked(idx[:, document]))
    torch.testing.assert_close(whole[:, :4], mixed[:, :4])
    assert (whole - mixed)[0, 5:, :50].abs().amax(1).min() > 1e-3


def test_masked_logits_depend_on_their_own_document_alone(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    """The gradient of logits at t by the embedding at s is zero but where t's document begins."""
    idx, documents = three_documents()
    expected = torch.zeros(16, 16, dtype=torch.bool)
    for document in documents:
        expected[document, document] = True
    model = lively(replace(config, mask_documents=True))
    assert torch.equal(influence(model, idx), expected.tril())
    assert torch.equal(influence(lively(config), idx), torch.ones(16, 16).tril().bool())


def test_a_mask_without_separators_changes_nothing(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    idx = some_tokens(2, 16).clamp(max=SEPARATOR - 1)
    masked = lively(replace(config, mask_documents=True))(idx)
    torch.testing.assert_close(masked, lively(config)(idx))


@pytest.mark.parametrize("chunks", [[1] * 16, [5, 1, 7, 3], [16]], ids=str)
@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "rotary"}, {"position": "learned"}, {"mask_documents": True}],
    ids=str,
)
def test_cache_equals_computing_all_again(
    config: GPTConfig, changes: dict, chunks: list[int], lively: Callable[[GPTConfig], GPT]
) -> None:
    model, idx = lively(replace(config, **changes)), some_tokens(2, 16)
    idx[0, 3] = idx[1, 9] = SEPARATOR
    cache = KVCache(model.config, 2, CPU, torch.float32)
    with torch.no_grad():
        pieces = torch.cat([model(part, cache=cache) for part in idx.split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(pieces, model(idx))
    assert cache.lengths == [16, 16]


def test_more_tokens_than_the_block_are_refused(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    model = lively(config)
    with pytest.raises(ValueError, match="sequence length 17 exceeds block_size 16"):
        model(some_tokens(1, 17))
    cache = KVCache(config, 1, CPU, torch.float32)
    model(some_tokens(1, 12), cache=cache)
    with pytest.raises(ValueError, match="sequence length 17 exceeds block_size 16"):
        model(some_tokens(1, 5), cache=cache)


def test_heads_must_divide_the_channels(gpt2: GPTConfig) -> None:
    with pytest.raises(ValueError, match="n_embd 32 is not a multiple of n_head 3"):
        replace(gpt2, n_head=3)


def test_rotary_positions_need_an_even_head_size(gpt2: GPTConfig) -> None:
    with pytest.raises(ValueError, match="need it even"):
        replace(gpt2, position="rotary", n_head=32)


def test_zero_init_makes_every_block_the_identity(
    config: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    model = seeded(replace(config, zero_init_proj=True))
    x = torch.randn(2, 16, 32)
    cos_sin = rotary_cos_sin(config) if config.position == "rotary" else None
    for layer, block in enumerate(model.h):
        assert torch.equal(block(x, cos_sin, layer, None, None, [None] * 3), x)


def test_init_has_the_spread_of_gpt2(gpt2: GPTConfig, seeded: Callable[[GPTConfig], GPT]) -> None:
    for name, p in seeded(gpt2).named_parameters():
        if p.ndim < 2:
            assert torch.equal(p, torch.full_like(p, float("ln_" in name and "weight" in name)))
        else:
            expected = 0.02 / math.sqrt(2 * 2) if "c_proj" in name else 0.02
            assert p.std().item() == pytest.approx(expected, rel=0.1), name


def test_tied_weights_share_their_memory(
    config: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    tied = seeded(replace(config, tie_weights=True))
    apart = seeded(replace(config, tie_weights=False))
    assert tied.lm_head.weight.data_ptr() == tied.wte.weight.data_ptr()
    assert apart.lm_head.weight.data_ptr() != apart.wte.weight.data_ptr()
    assert apart.n_params() - tied.n_params() == 64 * 32


def test_qk_norm_makes_the_length_of_queries_and_keys_irrelevant(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    idx = some_tokens(2, 9)
    for qk_norm in (True, False):
        for rows in (slice(0, 32), slice(32, 64)):  # of the queries, of the keys
            model = lively(replace(config, bias=False, qk_norm=qk_norm))
            before = model(idx)[..., :50]
            with torch.no_grad():
                for block in model.h:
                    block.attn.c_attn.weight[rows] *= 3
            moved = (model(idx)[..., :50] - before).abs().max()
            assert moved < 1e-4 if qk_norm else moved > 0.1


def test_softcap_bends_the_logits_below_it(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    idx = some_tokens(2, 9)
    free = lively(replace(config, logit_softcap=0.0))(idx)[..., :50]
    capped = lively(replace(config, logit_softcap=2.0))(idx)[..., :50]
    assert free.abs().max() > 2
    torch.testing.assert_close(capped, 2 * torch.tanh(free / 2))


def test_rotation_turns_pairs_of_channels_by_angles_that_grow_with_the_position(
    modern: GPTConfig,
) -> None:
    """Su et al. 2021, equation 15, channels paired across the halves as in GPT-NeoX."""
    cos, sin = rotary_cos_sin(replace(modern, n_head=8))  # 4 channels per head
    turned = apply_rotary(torch.tensor([1.0, 0.0, 0.0, 2.0]).expand(16, 1, -1), cos, sin)[:, 0]
    slow = torch.arange(16) * 10_000**-0.5
    wanted = (slow * 100).cos(), -2 * slow.sin(), (slow * 100).sin(), 2 * slow.cos()
    torch.testing.assert_close(turned, torch.stack(wanted, dim=1))


def test_squared_relu_has_the_gradient_of_autograd() -> None:
    x = torch.randn(5, 7, requires_grad=True)
    wanted = torch.autograd.grad((x.relu() ** 2 * x.detach().cos()).sum(), x)
    found = torch.autograd.grad((relu2(x) * x.detach().cos()).sum(), x)
    torch.testing.assert_close(relu2(x), x.relu() ** 2)
    torch.testing.assert_close(found, wanted)


def test_rotated_products_depend_on_the_distance_alone(modern: GPTConfig) -> None:
    """Su et al. 2021, equation 16."""
    cos, sin = rotary_cos_sin(modern)
    q, k = torch.randn(16), torch.randn(16)
    turned = [apply_rotary(x.expand(16, 1, -1), cos, sin)[:, 0] for x in (q, k)]  # (T, D) each
    products = turned[0] @ turned[1].T  # (T, T)
    for distance in range(-15, 16):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.1


def test_dropout_is_for_training_alone(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    model, idx = lively(replace(config, dropout=0.5)), some_tokens(2, 8)
    some, others = torch.tensor([[1, 2], [1, 3]])
    assert torch.equal(model(idx), model(idx, dropout_keys=some))
    model.train()
    assert not torch.equal(model(idx, dropout_keys=some), model.eval()(idx))
    model.train()
    dropped, again = model(idx, dropout_keys=some), model(idx, dropout_keys=others)
    assert torch.equal(dropped[0], again[0])
    assert not torch.equal(dropped[1], again[1])
    with pytest.raises(ValueError, match="training with dropout requires dropout_keys"):
        model(idx)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_one_graph_holds_the_whole_model_with_its_loss(
    config: GPTConfig, lively: Callable[[GPTConfig], GPT], dropout: float
) -> None:
    """torch.compile gets all of it at once; what it generates from that is its own affair."""
    model = lively(replace(config, dropout=dropout)).train()
    idx, targets, keys = some_tokens(2, 16), some_tokens(2, 16, seed=1), torch.tensor([1, -1])
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = run(idx, targets, dropout_keys=keys)
        loss.backward()
        results.append([loss.detach(), model.lm_head.weight.grad, model.h[0].mlp.c_fc.weight.grad])
        model.zero_grad(set_to_none=True)
    for ours, compiled in zip(*results, strict=True):
        assert torch.equal(ours, compiled)
