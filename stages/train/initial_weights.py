"""The weights that a training starts from when `train.init_from` names a folder in `weights/`.

Such a folder is a model's: `stages/tools/convert.py` makes one of GPT-2, and `models/gpt` is one to
copy. Here it is checked against params and shards before a training, and read at its start. torch
is imported late: the launcher's check of the params does without.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts.weights import check_initial_folder, weights_sha256

if TYPE_CHECKING:
    from nanogpt.model.gpt import GPT

FREE = ("block_size", "dropout")  # may be otherwise than in the model that is started from


def check_initial(folder: Path, model: dict[str, Any], tokenizer: Path) -> None:
    """Raise ValueError when the section `model` or the shards' tokenizer is not the folder's."""
    from nanogpt.model.files import read_config

    check_initial_folder(folder)
    found = vars(read_config(folder))
    differing = [
        f"model.{key} is {model[key]!r}, there {found[key]!r}"
        for key in model
        if key not in FREE and model[key] != found[key]
    ]
    if model["block_size"] > found["block_size"]:
        differing.append(
            f"model.block_size is {model['block_size']}, there {found['block_size']} at most"
        )
    if differing:
        raise ValueError(f"train.init_from {folder} is another model: {'; '.join(differing)}")
    if contents(folder / "tokenizer") != contents(tokenizer):
        advice = different_characters(folder / "tokenizer", tokenizer) or (
            "set `tokenize` to what its tokenizer is (for GPT-2: tokenizer gpt2, vocab_size null)"
        )
        raise ValueError(f"train.init_from {folder} knows other tokens than {tokenizer}; {advice}")


def different_characters(folder: Path, corpus: Path) -> str | None:
    """Return which characters two tokenizers do not share, where both are of characters."""
    kinds = [
        json.loads((f / "tokenizer.json").read_text(encoding="utf-8")) for f in (folder, corpus)
    ]
    if any(about["kind"] != "char" for about in kinds):
        return None
    known, found = (set(about["characters"]) for about in kinds)
    return (
        f"your texts must have the characters of its alphabet and no other: they lack "
        f"{sorted(known - found)}, and also have {sorted(found - known)}"
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a tokenizer; its fingerprint is a hash of the same."""
    return {file.name: file.read_bytes() for file in folder.glob("*")}


def load_initial(model: "GPT", folder: Path, sha256: str) -> None:
    """Fill a model; of learned positions only those it has are taken.

    Raises ValueError when they are not those of that hash, which the training was started with, or
    not finite.
    """
    from nanogpt.model.files import fill
    from nanogpt.model.tensor_files import check_numbers, read_weights

    file = folder / "model.safetensors"
    weights = read_weights(file)
    if weights_sha256(folder) != sha256:  # looked at after they were read
        raise ValueError(f"{file} was changed since this training was started; run it again")
    check_numbers(weights, file)
    if model.wpe is not None:
        weights["wpe.weight"] = weights["wpe.weight"][: model.config.block_size]
    fill(model, weights, file)


def origin_of(folder: Path) -> dict[str, Any]:
    """Where the weights come from, as the conversion or the training that made them noted it."""
    notes = [folder / name for name in ("source.json", "lineage.json")]
    return {
        "folder": folder.as_posix(),
        "sha256": weights_sha256(folder),
        **{file.stem: json.loads(file.read_text()) for file in notes if file.is_file()},
    }
