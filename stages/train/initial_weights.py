"""Initial weights: training starts from them if `train.init_from` names a folder in `weights/`.

Such a folder is a model folder: one converted from GPT-2, or a copy of `models/gpt`. It is checked
against params and shards before training, and loaded at its start. torch is imported late, since
the launcher checks the params without it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts.model import LINEAGE
from stages.artifacts.weights import check_initial_folder, weights_sha256

if TYPE_CHECKING:
    from nanogpt.model.gpt import GPT

FREE = ("block_size", "dropout")  # may differ from the initial model


def check_initial(folder: Path, model: dict[str, Any], tokenizer: Path) -> None:
    """Raise ValueError if the folder's model or tokenizer differs from the params or the shards."""
    from nanogpt.model.files import read_config

    check_initial_folder(folder)
    initial = vars(read_config(folder))
    differing = [
        f"model.{key} is {model[key]!r}, but these weights have {initial[key]!r}"
        for key in model
        if key not in FREE and model[key] != initial[key]
    ]
    if model["block_size"] > initial["block_size"]:
        differing.append(
            f"model.block_size is {model['block_size']}, but these weights have "
            f"{initial['block_size']}"
        )
    if differing:
        raise ValueError(
            f"train.init_from {folder} does not match section `model`: {'; '.join(differing)}"
        )
    if tokenizer_files(folder / "tokenizer") != tokenizer_files(tokenizer):
        advice = describe_character_mismatch(folder / "tokenizer", tokenizer) or (
            "set `tokenize` to its tokenizer (for GPT-2: tokenizer gpt2, vocab_size null); `bpe` "
            "learns its vocabulary from the text, so weights with bpe fit only the text and split "
            "that they were trained on"
        )
        raise ValueError(
            f"train.init_from {folder} uses a different tokenizer than {tokenizer}; {advice}"
        )


def describe_character_mismatch(folder: Path, corpus: Path) -> str | None:
    """Describe how the characters of two `char` tokenizers differ; None for other tokenizers."""
    tokenizers = [
        json.loads((f / "tokenizer.json").read_text(encoding="utf-8")) for f in (folder, corpus)
    ]
    if any(about["kind"] != "char" for about in tokenizers):
        return None
    known, used = (set(about["characters"]) for about in tokenizers)
    return (
        "your documents must use exactly the characters of its vocabulary; "
        f"missing: {sorted(known - used)}, extra: {sorted(used - known)}"
    )


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of a tokenizer, of which its fingerprint is a hash."""
    return {file.name: file.read_bytes() for file in folder.glob("*")}


def load_initial(model: "GPT", folder: Path, sha256: str) -> None:
    """Load the weights into a model; position embeddings are cut to its context length.

    Raises ValueError if the weights do not have the hash with which the training run started, or
    are not finite.
    """
    from nanogpt.model.files import fill
    from nanogpt.model.tensor_files import check_numbers, read_weights

    file = folder / "model.safetensors"
    weights = read_weights(file)
    if weights_sha256(folder) != sha256:  # hashed after reading: what was read is what is checked
        raise ValueError(f"{file} was changed after this training run started; rerun it")
    check_numbers(weights, file)
    if model.wpe is not None:
        weights["wpe.weight"] = weights["wpe.weight"][: model.config.block_size]
    fill(model, weights, file)


def origin_of(folder: Path) -> dict[str, Any]:
    """Return the origin of the weights, as the conversion or the training recorded it."""
    records = [folder / name for name in ("source.json", LINEAGE)]
    return {
        "folder": folder.as_posix(),
        "sha256": weights_sha256(folder),
        **{file.stem: json.loads(file.read_text()) for file in records if file.is_file()},
    }
