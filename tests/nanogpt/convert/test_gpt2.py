"""GPT-2 by Hugging Face and by nanoGPT's names: the same model, or a refusal by name."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.config import GPTConfig, Sampling
from nanogpt.convert.gpt2 import (
    config_from_hf,
    config_from_nanogpt,
    config_to_hf,
    gpt2_model,
    read_nanogpt,
    weights_to_hf,
    with_new_row,
)
from nanogpt.generate.decode import generate
from nanogpt.model.gpt import GPT

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel  # importing takes seconds

SOURCE = Path("model.safetensors")
TOLERANCE = 1e-4
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ARGS = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 24,
    "bias": True,
    "vocab_size": 50,
    "dropout": 0.0,
}


def hf_model(vocab_size: int = 50, activation: str = "gelu_new") -> "GPT2LMHeadModel":
    """A small GPT-2 by Hugging Face whose every weight says something."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(vocab_size)
    sizes = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=vocab_size, activation_function=activation, **sizes)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model


def imported(model: "GPT2LMHeadModel", weights: Mapping[str, Tensor] | None = None) -> GPT:
    """Ours of it."""
    config = config_from_hf(model.config.to_dict())
    weights = model.state_dict() if weights is None else weights
    found = gpt2_model(config, weights, SOURCE, vocab_rows=config.vocab_size, conv1d=True)
    return found.eval()


def exported(model: GPT) -> "GPT2LMHeadModel":
    """Hugging Face's of ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    about = config_to_hf(model.config)
    theirs = GPT2LMHeadModel(GPT2Config(**about)).eval()
    weights = weights_to_hf(model.config, dict(model.named_parameters()))
    left = theirs.load_state_dict(weights, strict=False)
    assert (left.missing_keys, left.unexpected_keys) == (["lm_head.weight"], [])
    return theirs


def nanogpt_weights(model: "GPT2LMHeadModel", rows: int, prefix: str = "") -> dict[str, Tensor]:
    """The state dict that nanoGPT has of the same model, its vocabulary padded to `rows`."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith(CONV1D):
            value = value.t().contiguous()  # nn.Linear
        if name in ("transformer.wte.weight", "lm_head.weight"):
            value = torch.cat((value, torch.ones(rows - len(value), value.size(1))))
        weights[prefix + name] = value
    weights[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    return weights


def tokens(model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Three random windows and their targets."""
    vocab_size = model.config.vocab_size
    windows = torch.randint(vocab_size, (3, 25), generator=torch.Generator().manual_seed(5))
    return windows[:, :-1], windows[:, 1:]


def assert_same_model(ours: GPT, theirs: "GPT2LMHeadModel") -> None:
    """Logits and the gradients of every weight agree."""
    idx, targets = tokens(ours)
    logits = theirs(idx).logits
    found = ours(idx)[:, :, : ours.config.vocab_size]
    assert (found - logits).abs().max() <= TOLERANCE
    ours(idx, targets).mean().backward()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = weights_to_hf(
        ours.config, {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    )
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert (gradients[name] - gradient).abs().max() <= TOLERANCE, name


def assert_same_text(ours: GPT, theirs: "GPT2LMHeadModel") -> None:
    """Both write the same, token for token, taking the likeliest."""
    prompt = tokens(ours)[0][:, :4]
    sampling = Sampling(temperature=0, top_k=None, top_p=1.0)
    written = generate(ours, list(prompt), 20, sampling=sampling, seeds=range(len(prompt)))
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert torch.equal(torch.stack(list(written), dim=1), expected[:, 4:])


@pytest.mark.parametrize("vocab_size", [50, 64, 97, 257])
def test_theirs_becomes_ours(vocab_size: int) -> None:
    theirs = hf_model(vocab_size)
    ours = imported(theirs)
    assert ours.config.vocab_size == vocab_size
    assert_same_model(ours, theirs)
    assert_same_text(ours, theirs)


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 50}, {"vocab_size": 97}, {"activation": "gelu_exact"}]
)
def test_ours_becomes_theirs(
    changes: dict[str, Any], gpt2: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    ours = lively(replace(gpt2, block_size=24, **changes))
    theirs = exported(ours)
    assert_same_model(ours, theirs)
    assert_same_text(ours, theirs)


def test_a_model_without_biases_becomes_theirs_with_zeros(
    gpt2: GPTConfig, lively: Callable[[GPTConfig], GPT]
) -> None:
    ours = lively(replace(gpt2, bias=False, block_size=24))
    theirs = exported(ours)
    idx, _ = tokens(ours)
    difference = ours(idx)[:, :, : ours.config.vocab_size] - theirs(idx).logits
    assert difference.abs().max() <= TOLERANCE
    biases = [p for name, p in theirs.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(p.any() for p in biases)


def test_the_way_in_and_out_changes_no_bit() -> None:
    theirs = hf_model()
    ours = imported(theirs)
    again = weights_to_hf(ours.config, dict(ours.named_parameters()))
    expected = {n: w for n, w in theirs.state_dict().items() if n != "lm_head.weight"}
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_the_config_out_and_in_is_the_same(gpt2: GPTConfig) -> None:
    config = replace(gpt2, vocab_size=97, dropout=0.1)
    assert config_from_hf(config_to_hf(config)) == config


def test_the_two_forms_of_gelu_are_told_apart() -> None:
    theirs = hf_model(activation="gelu")
    ours = imported(theirs)
    assert ours.config.activation == "gelu_exact"
    assert_same_model(ours, theirs)
    idx, _ = tokens(ours)
    tanh_form = imported(hf_model())
    assert (ours(idx) - tanh_form(idx))[:, :, :50].abs().max() > 2 * TOLERANCE


def test_weights_as_openai_released_them_are_read() -> None:
    theirs = hf_model()
    weights = {n.removeprefix("transformer."): w for n, w in theirs.state_dict().items()}
    del weights["lm_head.weight"]
    weights["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    weights["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    assert_same_model(imported(theirs, weights), theirs)


def test_half_precision_is_read_as_float32() -> None:
    theirs = hf_model().half()
    ours = imported(theirs)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_model(ours, theirs.float())


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("rows", [50, 64])
def test_a_checkpoint_of_nanogpt_becomes_ours(tmp_path: Path, rows: int, prefix: str) -> None:
    theirs = hf_model(activation="gelu")  # the exact one, as in nanoGPT
    checkpoint = {
        "model": nanogpt_weights(theirs, rows, prefix),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**ARGS, "vocab_size": rows},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare", "compile": True},
    }
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    model_args, weights = read_nanogpt(tmp_path / "ckpt.pt")
    config = config_from_nanogpt(model_args, 50)
    ours = gpt2_model(config, weights, SOURCE, vocab_rows=rows, conv1d=False)
    assert ours.config.vocab_size == 50
    idx, _ = tokens(ours)
    assert (ours.eval()(idx)[:, :, :50] - theirs(idx).logits).abs().max() <= TOLERANCE


def test_a_checkpoint_of_nanogpt_without_biases_becomes_ours() -> None:
    theirs = hf_model(activation="gelu")  # the exact one, as in nanoGPT
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    weights = {n: w for n, w in nanogpt_weights(theirs, 50).items() if not n.endswith("bias")}
    config = config_from_nanogpt({**ARGS, "bias": False}, 50)
    ours = gpt2_model(config, weights, SOURCE, vocab_rows=50, conv1d=False).eval()
    idx, _ = tokens(ours)
    assert (ours(idx)[:, :, :50] - theirs(idx).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo'"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"n_inner": 64}, "n_inner is 64"),
        ({"attn_pdrop": 0.2}, "'attn_pdrop': 0.2"),
        ({"resid_pdrop": "x", "attn_pdrop": "x", "embd_pdrop": "x"}, "resid_pdrop is 'x'"),
        ({"n_layer": None}, "n_layer is None"),
        ({"n_positions": 0}, "n_positions is 0"),
        ({"vocab_size": "50"}, "vocab_size is '50'"),
        ({"n_head": 3}, "n_embd 32 is not a multiple of n_head 3"),
    ],
)
def test_what_our_model_cannot_do_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        config_from_hf({**hf_model().config.to_dict(), **changes})
    assert words in str(caught.value)


def test_all_that_prevents_the_way_in_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"add_cross_attention.*activation_function"):
        config_from_hf({"n_embd": 32, "activation_function": "relu", "add_cross_attention": True})


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "rotary"},
        {"norm": "rmsnorm"},
        {"activation": "relu2"},
        {"qk_norm": True},
        {"tie_weights": False},
        {"logit_softcap": 15.0},
        {"qk_norm": True, "norm": "rmsnorm"},
    ],
)
def test_what_gpt2_cannot_express_is_refused_by_name(
    changes: dict[str, Any], gpt2: GPTConfig
) -> None:
    with pytest.raises(ValueError, match="GPT-2 cannot express this model") as caught:
        config_to_hf(replace(gpt2, **changes))
    for field in changes:
        assert f"{field} is" in str(caught.value)
    assert str(caught.value).count(" is ") == len(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("transformer.h.1.mlp.c_fc.bias"), "h.1.mlp.c_fc.bias"),
        (lambda w: w.update(score=torch.zeros(2)), "score"),
        (lambda w: w.update({"wte.weight": torch.zeros(50, 32)}), "twice"),
        (lambda w: w.update({"transformer.ln_f.bias": torch.zeros(31)}), "ln_f.bias is (31,)"),
        (lambda w: w.update({"lm_head.weight": torch.zeros(50, 32)}), "lm_head.weight is not"),
        (lambda w: w.update({"transformer.wte.weight": torch.zeros(64, 32)}), "vocab_size 50"),
        (lambda w: w.pop("transformer.wte.weight"), "wte.weight is missing"),
        (
            lambda w: w.update({"transformer.h.0.attn.c_attn.weight": torch.zeros(96, 32)}),
            "h.0.attn.c_attn.weight is (32, 96), not (96, 32)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    theirs = hf_model()
    weights = dict(theirs.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        imported(theirs, weights)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 51}, "vocab_size is 51, the tokenizer has 50 tokens (64 when padded)"),
        ({"rope": True}, "rope"),
        ({"block_size": -1}, "block_size is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_model_args_that_are_not_nanogpts_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        config_from_nanogpt({**ARGS, **changes}, 50)
    assert words in str(caught.value)


def test_model_args_that_miss_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match="missing or unknown: bias"):
        config_from_nanogpt({key: value for key, value in ARGS.items() if key != "bias"}, 50)


@pytest.mark.parametrize(
    "names",
    [
        lambda name: f"module.{name}",  # DDP
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_forward_module.{name}",
        lambda name: name.replace("transformer.", "_fsdp_wrapped_module.transformer."),
        lambda name: name.replace(".attn", "._checkpoint_wrapped_module.attn"),
    ],
)
def test_names_that_wrappers_of_a_model_write_are_read(names: Callable[[str], str]) -> None:
    theirs = hf_model(activation="gelu")
    weights = {names(name): value for name, value in nanogpt_weights(theirs, 50).items()}
    config = config_from_nanogpt(ARGS, 50)
    assert_same_model(gpt2_model(config, weights, SOURCE, vocab_rows=50, conv1d=False), theirs)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((32,), math.nan), r"ln_f\.weight holds 32 of 32 numbers that are NaN"),
        (torch.tensor([math.inf] + [1.0] * 31), r"ln_f\.weight holds 1 of 32"),
        (torch.tensor([1e300] * 32, dtype=torch.float64), r"ln_f\.weight holds 32 of 32"),
        (torch.ones(32, dtype=torch.int8), r"ln_f\.weight is of type int8, not float16"),
        (torch.ones(32, dtype=torch.complex64), r"ln_f\.weight is of type complex64"),
        ("ones", r"ln_f\.weight is of type str"),
    ],
)
def test_numbers_that_cannot_be_weights_are_refused_by_name(value: Any, words: str) -> None:
    weights = {**hf_model().state_dict(), "transformer.ln_f.weight": value}
    with pytest.raises(ValueError, match=rf"^model\.safetensors: transformer\.{words}"):
        imported(hf_model(), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_of_finite_weights_are_read(dtype: torch.dtype) -> None:
    theirs = hf_model()
    weights = {name: value.to(dtype) for name, value in theirs.state_dict().items()}
    ours = imported(theirs, weights)
    assert torch.equal(ours.ln_f.weight, weights["transformer.ln_f.weight"].float())


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_new_token_is_the_mean_of_the_others_and_never_likelier(prefix: str) -> None:
    theirs = hf_model(vocab_size=50, activation="gelu")
    weights = with_new_row(nanogpt_weights(theirs, 50, prefix))
    config = config_from_nanogpt({**ARGS, "vocab_size": 51}, 51)
    ours = gpt2_model(config, weights, SOURCE, vocab_rows=51, conv1d=False).eval()
    idx = tokens(theirs)[0]
    with torch.no_grad():
        found, expected = ours(idx)[:, :, :51], theirs(idx).logits
    assert (found[:, :, :50] - expected).abs().max() <= TOLERANCE
    assert (found[:, :, 50] - expected.mean(2)).abs().max() <= TOLERANCE
    assert found.softmax(2)[:, :, 50].max() <= 1 / 51
    assert torch.equal(ours.wte.weight[50], theirs.transformer.wte.weight.mean(0))


class Malicious:
    """Unpickled, it would leave a folder behind."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("run",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "model_args": {}, "config": Malicious()}, "ckpt.pt")
    with pytest.raises(ValueError, match=r"ckpt\.pt is damaged or not a nanoGPT") as caught:
        read_nanogpt(Path("ckpt.pt"))
    assert not Path("run").exists()
    assert "it must be a ckpt.pt as nanoGPT's train.py writes it" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to run what is in it


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no zip either"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ckpt.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ckpt\.pt is damaged or not a nanoGPT checkpoint"):
        read_nanogpt(file)


@pytest.mark.parametrize("content", [{"model": {}}, {"model_args": {}}, [1], {"model": 1}])
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match="is not a nanoGPT checkpoint: it has no `model"):
        read_nanogpt(tmp_path / "ckpt.pt")
