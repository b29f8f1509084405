"""The weights that transformers saved: in one file, or in several that an index names."""

import json
from pathlib import Path

from torch import Tensor

from nanogpt.model.tensor_files import read_weights

HF_WEIGHTS, HF_INDEX = "model.safetensors", "model.safetensors.index.json"


def read_hf(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Return the weights that transformers saved in a folder, and the files that make them up.

    Large models lie in several, and an index that names them comes first. Raises ValueError when a
    file is missing or damaged, or holds what the index does not say.
    """
    index = folder / HF_INDEX
    if (whole := folder / HF_WEIGHTS).is_file():
        return read_weights(whole), [whole]
    places = read_index(index)
    weights: dict[str, Tensor] = {}
    files = [folder / name for name in sorted(set(places.values()))]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{index} names {file.name}, which is missing")
        found = read_weights(file)
        expected = {name for name, place in places.items() if place == file.name}
        if odd := sorted(found.keys() ^ expected):
            raise ValueError(f"{file} does not hold what {index.name} says; differing: {odd[:5]}")
        weights |= found
    return weights, [index, *files]


def read_index(index: Path) -> dict[str, str]:
    """Return the file that each weight lies in. Raises ValueError when that is not what it says."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {Path(name) for name in places.values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is damaged: it has no `weight_map` of names and files") from None
    if outside := sorted(str(name) for name in names if name.name != str(name)):
        raise ValueError(f"{index} names {outside[0]!r}, which is no file in its folder")
    return dict(places)
