"""Tensors in safetensors files, and a check that they can be the weights of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file. Raises OSError when it cannot be written."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:  # not an OSError
        raise OSError(f"{file} cannot be written: {error}") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises ValueError when it is damaged."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def check_numbers(weights: Mapping[str, Any], source: Path) -> None:
    """Raise ValueError naming the first tensor that is not floating point or not finite."""
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.dtype not in FLOATS:
            kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
            raise ValueError(
                f"{source}: {name} is of type {kind}, not float16, bfloat16, float32 or float64; "
                "of a quantized model, convert the one that it was made from"
            )
        if odd := int((~value.float().isfinite()).sum()):
            raise ValueError(
                f"{source}: {name} holds {odd} of {value.numel()} numbers that are NaN or infinite "
                "in float32; take an earlier checkpoint, or fetch the file again"
            )
