"""A model's folder on disk: weights in `model.safetensors`, the config in `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogpt.config import GPTConfig
from nanogpt.files import write_json
from nanogpt.model.gpt import GPT
from nanogpt.model.tensor_files import read_weights, write_tensors
from nanogpt.runtime import distribute_like

MODEL_FILES = ("config.json", "model.safetensors")


def save_model(folder: Path, model: GPT) -> None:
    """Write a model's weights and config into an existing folder."""
    write_model(folder, model.config, {name: p.detach() for name, p in model.named_parameters()})


def write_model(folder: Path, config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Write weights and config into an existing folder."""
    write_tensors(weights, folder / "model.safetensors")
    write_json(folder / "config.json", asdict(config))


def load_model(folder: Path, device: torch.device) -> GPT:
    """Load a model that `save_model` wrote onto a device.

    Raises ValueError when the folder holds no such model.
    """
    model = GPT(read_config(folder))
    load_weights(model, folder / "model.safetensors")
    return model.to(device)


def read_config(folder: Path) -> GPTConfig:
    """Read the config of a model. Raises ValueError when the folder holds no model of ours."""
    missing = [n for n in MODEL_FILES if not (folder / n).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no model: {', '.join(missing)} missing")
    try:
        return GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a valid model config: {error}") from None


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the weights in `file` into `model`. Raises ValueError as `fill` does."""
    fill(model, read_weights(file), file)


def fill(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Copy `weights`, read from `file`, into the parameters of `model`.

    Raises ValueError when names or shapes do not agree.
    """
    expected = dict(model.named_parameters())
    if weights.keys() != expected.keys():
        odd = sorted(weights.keys() ^ expected.keys())
        raise ValueError(f"{file} does not fit the model's config; differing weights: {odd[:5]}")
    for name, p in expected.items():
        if weights[name].shape != p.shape:
            raise ValueError(
                f"{file} does not fit the model's config: {name} is "
                f"{tuple(weights[name].shape)}, not {tuple(p.shape)}"
            )
    with torch.no_grad():
        for name, p in expected.items():
            p.copy_(distribute_like(weights[name], p))
