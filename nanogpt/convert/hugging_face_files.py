"""Weights saved by transformers: in one file, or sharded over several that an index names."""

import json
from pathlib import Path

from torch import Tensor

from nanogpt.model.tensor_files import read_weights

HF_WEIGHTS, HF_INDEX = "model.safetensors", "model.safetensors.index.json"


def read_hf(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Read the weights that transformers saved in a folder; return them and their files.

    Those of a large model are sharded; then the index is the first of the files. Raises ValueError
    when a file is missing or damaged, or does not hold what the index says.
    """
    index = folder / HF_INDEX
    if (single := folder / HF_WEIGHTS).is_file():
        return read_weights(single), [single]
    weight_map = read_index(index)
    weights: dict[str, Tensor] = {}
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{index} names {file.name}, which is missing")
        shard = read_weights(file)
        expected = {name for name, file_name in weight_map.items() if file_name == file.name}
        if odd := sorted(shard.keys() ^ expected):
            raise ValueError(f"{file} does not hold what {index.name} says; differing: {odd[:5]}")
        weights |= shard
    return weights, [index, *files]


def read_index(index: Path) -> dict[str, str]:
    """Return the file name of each weight. Raises ValueError when the index is damaged."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {Path(name) for name in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is damaged: it has no `weight_map` of names and files") from None
    if outside := sorted(str(name) for name in names if name.name != str(name)):
        raise ValueError(f"{index} names {outside[0]!r}, which is not a file in its folder")
    return dict(weight_map)
