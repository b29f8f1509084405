"""Conversion of GPT-2 weights: from Hugging Face and nanoGPT, and to Hugging Face.

Both name every weight as we do, under a prefix. Hugging Face stores the four matrices of a layer
transposed (its Conv1D is OpenAI's, (in, out)); both may also store the causal mask as a buffer and
the tied head a second time. Options that our model cannot express are refused by name, and so, on
export, are those that GPT-2 cannot. Nothing here downloads files or knows tokenizers.

Shapes: C channels (n_embd), V vocabulary.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.config import GPTConfig
from nanogpt.model.files import fill
from nanogpt.model.gpt import GPT
from nanogpt.model.tensor_files import check_numbers

# A model of ours is a GPT-2 if all other options have their defaults. These are sizes, options that
# Hugging Face's config.json has too, and options that do not show in the weights.
FREE_OPTIONS = (
    *("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "dropout"),
    *("bias", "activation", "zero_init_proj", "ngram_order"),
)
GPT2: dict[str, Any] = {
    field.name: field.default for field in fields(GPTConfig) if field.name not in FREE_OPTIONS
}

# Values that Hugging Face's config.json must have, for the keys it has.
HF_FIXED: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# Hugging Face's names of our activations. GPT-2 uses GELU's tanh form, nanoGPT the exact one.
ACTIVATIONS: dict[str, Any] = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
}
HF_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
NANOGPT_ARGS = {"block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias"}

CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
# Parts that torch.compile, DDP, Lightning Fabric, FSDP and activation checkpointing add to names.
WRAPPERS = {
    *("_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module",
}
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask, not the bias of a layer


def config_from_hf(hf_config: Mapping[str, Any]) -> GPTConfig:
    """Return our config for the content of Hugging Face's config.json of a GPT-2.

    Raises ValueError naming every key that asks for something our model does not do.
    """
    problems = [
        f"{key} is {hf_config[key]!r}, ours is {value!r}"
        for key, value in HF_FIXED.items()
        if hf_config.get(key, value) != value
    ]
    activation = hf_config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        problems.append(f"activation_function is {activation!r}, not {' or '.join(ACTIVATIONS)}")
    if hf_config.get("n_inner") not in (None, 4 * size_of(hf_config, "n_embd")):
        problems.append(f"n_inner is {hf_config['n_inner']}, ours is 4 x n_embd")
    dropouts = {key: hf_config.get(key, 0.1) for key in HF_DROPOUTS}
    if len(set(dropouts.values())) > 1:
        problems.append(f"the dropouts differ, ours is one: {dropouts}")
    positions = "n_positions" if "n_positions" in hf_config else "n_ctx"  # n_ctx is the older name
    if problems:
        raise ValueError("; ".join(problems))
    return GPTConfig(
        vocab_size=size_of(hf_config, "vocab_size"),
        block_size=size_of(hf_config, positions),
        n_layer=size_of(hf_config, "n_layer"),
        n_head=size_of(hf_config, "n_head"),
        n_embd=size_of(hf_config, "n_embd"),
        dropout=rate_of(dropouts, "resid_pdrop"),
        bias=True,
        activation=ACTIVATIONS[activation],
        zero_init_proj=False,
        **GPT2,
    )


def config_to_hf(config: GPTConfig) -> dict[str, Any]:
    """Return the content of Hugging Face's config.json for a model of ours.

    Raises ValueError naming the options that GPT-2 cannot express. Biases that our model lacks
    become zeros.
    """
    problems = [
        f"{field} is {getattr(config, field)!r}, GPT-2's {value!r}"
        for field, value in GPT2.items()
        if getattr(config, field) != value
    ]
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if config.activation not in activations:
        problems.append(f"activation is {config.activation!r}, GPT-2's 'gelu'")
    if problems:
        raise ValueError(f"GPT-2 cannot express this model: {'; '.join(problems)}")
    return {
        "architectures": ["GPT2LMHeadModel"],
        **HF_FIXED,
        "activation_function": activations[config.activation],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        **dict.fromkeys(HF_DROPOUTS, config.dropout),
        "initializer_range": 0.02,
        "bos_token_id": config.eot_token,
        "eos_token_id": config.eot_token,
        "dtype": "float32",
        "use_cache": True,
    }


def config_from_nanogpt(model_args: Mapping[str, Any], vocab_size: int) -> GPTConfig:
    """Return our config for the `model_args` of a ckpt.pt whose tokenizer has vocab_size tokens.

    nanoGPT may have padded its vocabulary as we do. Raises ValueError naming a wrong key.
    """
    if odd := sorted(model_args.keys() ^ NANOGPT_ARGS):
        raise ValueError(f"model_args are not nanoGPT's; missing or unknown: {', '.join(odd)}")
    config = GPTConfig(
        vocab_size=vocab_size,
        block_size=size_of(model_args, "block_size"),
        n_layer=size_of(model_args, "n_layer"),
        n_head=size_of(model_args, "n_head"),
        n_embd=size_of(model_args, "n_embd"),
        dropout=rate_of(model_args, "dropout"),
        bias=bool(model_args["bias"]),
        activation="gelu_exact",
        zero_init_proj=False,
        **GPT2,
    )
    if model_args["vocab_size"] not in (vocab_size, config.padded_vocab_size):
        raise ValueError(
            f"vocab_size is {model_args['vocab_size']}, the tokenizer has {vocab_size} tokens "
            f"({config.padded_vocab_size} when padded)"
        )
    return config


def size_of(config: Mapping[str, Any], key: str) -> int:
    """Return the value of a key, a positive integer. Raises ValueError naming the key."""
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} is {value!r}, not a positive integer")
    return value


def rate_of(config: Mapping[str, Any], key: str) -> float:
    """Return the value of a key, at least 0 and below 1. Raises ValueError naming the key."""
    value = config[key]
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{key} is {value!r}, not a number from 0 and below 1")
    return float(value)


def read_nanogpt(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read (model_args, weights) from nanoGPT's ckpt.pt without running any code in it.

    Raises ValueError when it is damaged or not such a checkpoint.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise ValueError(  # torch's own message advises weights_only=False, which runs its code
            f"{file} is damaged or not a nanoGPT checkpoint: it must be a ckpt.pt as nanoGPT's "
            "train.py writes it, which holds only tensors and plain values; no code in it was "
            "run"
        ) from None
    for key in ("model_args", "model"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise ValueError(f"{file} is not a nanoGPT checkpoint: it has no `{key}`")
    return content["model_args"], content["model"]


def with_new_row(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add an embedding, the mean of the others, for a token that the weights lack.

    With a tied head its logit is the mean of all logits, so the new token is never likelier than
    1 / V and predictions hardly change (Hewitt 2021). As an input it stands for no character.
    """
    return {
        name: torch.cat((value, value.mean(0, keepdim=True)))
        if own_name(name) in ("wte.weight", "lm_head.weight")
        else value
        for name, value in weights.items()
    }


def gpt2_model(
    config: GPTConfig, weights: Mapping[str, Tensor], source: Path, *, vocab_rows: int, conv1d: bool
) -> GPT:
    """Build a model from the weights of a GPT-2 with vocab_rows embeddings.

    With conv1d, as in Hugging Face's files, the matrices of the layers are transposed. Raises
    ValueError naming weights of `source` that are missing, unknown or of another shape.
    """
    check_numbers({k: v for k, v in weights.items() if not MASK.fullmatch(own_name(k))}, source)
    own = {own_name(key): value for key, value in weights.items()}
    if len(own) < len(weights):
        raise ValueError(f"{source} holds weights twice, with and without a prefix")
    own = {name: value for name, value in own.items() if not MASK.fullmatch(name)}
    head, wte = own.pop("lm_head.weight", None), own.get("wte.weight")
    if wte is None or len(wte) != vocab_rows:
        shape = "missing" if wte is None else f"{tuple(wte.shape)}"
        raise ValueError(f"{source}: wte.weight is {shape}, vocab_size {vocab_rows}")
    if head is not None and not torch.equal(head, wte):
        raise ValueError(f"{source}: lm_head.weight is not wte.weight; GPT-2's head is tied")
    own["wte.weight"] = F.pad(wte, (0, 0, 0, config.padded_vocab_size - vocab_rows))
    model = GPT(config)
    fill(model, transposed(own) if conv1d else own, source)
    return model


def own_name(key: str) -> str:
    """Return our name of a weight, without the parts that wrappers add."""
    parts = [part for part in key.split(".") if part not in WRAPPERS]
    return ".".join(parts).removeprefix("transformer.")


def transposed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transpose the weights that Hugging Face stores as Conv1D."""
    return {n: value.t() if CONV1D.fullmatch(n) else value for n, value in weights.items()}


def weights_to_hf(config: GPTConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape our weights, or their gradients, to those of Hugging Face's GPT-2.

    The tied head is left out, as `save_pretrained` does.
    """
    out = transposed(weights)
    out["wte.weight"] = out["wte.weight"][: config.vocab_size]
    if not config.bias:
        with_bias = [name for name in weights if name not in ("wte.weight", "wpe.weight")]
        for name in with_bias:
            value = weights[name]
            out[f"{name.removesuffix('weight')}bias"] = value.new_zeros(len(value))
    return {f"transformer.{name}": value.detach().contiguous() for name, value in out.items()}
