"""Readable titles of training runs: the corpus or the preset, and what differs from the preset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.formats.presets import BASE, overlaid
from stages.runtime.yaml_files import ParamsError, read_params

SHOWN_CHARACTERS = 24  # of a value
SHOWN_CHANGES = 4
SHORT = {  # names of keys
    "train.learning_rate": "lr",
    "train.max_steps": "steps",
    "train.batch_tokens": "batch",
    "train.seed": "seed",
    "model.n_layer": "layers",
    "model.n_embd": "width",
    "model.block_size": "context",
}
COMPARED = ("train", "model", "tokenize", "clean", "split", "shard")  # what makes a model


def title_of(name: str, changes: Mapping[str, Any]) -> str:
    """Return a name followed by the values that were changed, by their dotted keys.

    Those that are changed most often, which have short names, come first.
    """
    order = {key: number for number, key in enumerate(SHORT)}
    keys = sorted(changes, key=lambda key: order.get(key, len(order)))
    parts = [f"{SHORT.get(key, key)} {shown(changes[key])}" for key in keys]
    if len(parts) > SHOWN_CHANGES:
        parts[SHOWN_CHANGES - 1 :] = [f"{len(parts) - SHOWN_CHANGES + 1} more"]
    return f"{name} · {', '.join(parts)}" if parts else name


def size_of(n_params: int) -> str:
    """Return a number of parameters for a title, such as 29K or 1.3M."""
    return f"{n_params / 1e6:.1f}M" if n_params >= 999_500 else f"{n_params / 1e3:.0f}K"


def shown(value: Any) -> str:
    """Return a value for a title; what is long, or may be an address, is left out."""
    text = str(value)
    is_short = isinstance(value, str | int | float | None) and len(text) <= SHOWN_CHARACTERS
    return text if is_short and "://" not in text else "…"


def corpus_name(corpus: Mapping[str, Any]) -> str:
    """Return a short name of a corpus."""
    source = corpus["source"]
    if source in ("huggingface", "package"):
        return Path(corpus[source]["name"]).name
    return Path(corpus["path"]).name if source == "files" else str(source)


def differences(content: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that make a different model than the preset, by their dotted keys."""
    return {
        f"{section}.{key}": value
        for section in COMPARED
        for key, value in content[section].items()
        if value != preset[section].get(key, value)
    }


@dataclass(frozen=True)
class Origin:
    """The preset that params differ from least, and a name for them."""

    preset: str | None  # None if no preset can be read
    changes: dict[str, Any]  # the values that differ, by their dotted keys
    name: str  # that of the preset, or of the corpus if that is another one


def nearest_preset(content: Mapping[str, Any], presets: Path) -> Origin:
    """Return the preset that params differ from least. One that cannot be read is left out."""
    corpus = corpus_name(content["corpus"])
    try:
        base = read_params(presets / f"{BASE}.yaml")
    except ParamsError:
        return Origin(None, {}, corpus)
    nearest, fewest = base, differences(content, base)
    name = BASE
    for file in sorted(presets.glob("*.yaml")):
        try:
            preset = overlaid(base, file)
        except ParamsError:
            continue
        found = differences(content, preset)
        if len(found) < len(fewest):
            name, nearest, fewest = file.stem, preset, found
    return Origin(name, fewest, name if nearest["corpus"] == content["corpus"] else corpus)
