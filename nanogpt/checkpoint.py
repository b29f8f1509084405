"""Models and training states on disk.

Weights are safetensors, everything else is JSON; nothing is pickled. Only whole checkpoints exist:
`nanogpt.files` says how.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanogpt.files import file_sha256, remove_whole, whole_folder
from nanogpt.model import GPT, GPTConfig

STATE_VERSION = 1
KEPT_CHECKPOINTS = 2  # the newest, and one before it should the newest be damaged


def save_model(folder: Path, model: GPT) -> None:
    """Write weights and config into an existing folder."""
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def load_model(folder: Path, device: torch.device) -> GPT:
    """Read a model as `save_model` wrote it.

    Raises ValueError when the folder holds no such model.
    """
    model = GPT(read_config(folder))
    load_weights(model, folder / "model.safetensors")
    return model.to(device)


def read_config(folder: Path) -> GPTConfig:
    """The config of a model. Raises ValueError when the folder holds no such model."""
    missing = [n for n in ("config.json", "model.safetensors") if not (folder / n).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no model: {', '.join(missing)} missing")
    try:
        return GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no model's of ours: {error}") from None


def load_weights(model: nn.Module, file: Path) -> None:
    """Fill the parameters of `model`; names and shapes must agree."""
    fill(model, read_weights(file), file)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ValueError when it is damaged."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


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
            p.copy_(weights[name])


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training has come. Steps count finished updates."""

    step: int
    best_step: int | None
    best_loss: float | None


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the state after `step` updates lies."""
    return folder / f"step-{step:08d}"


def save_state(
    folder: Path,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
    identity: Mapping[str, Any],
) -> Path:
    """Write one checkpoint under `folder`, then drop all but the newest ones and the best."""
    with whole_folder(checkpoint_folder(folder, progress.step)) as beside:
        save_model(beside, model)
        save_file(optimizer_tensors(optimizers), beside / "optimizer.safetensors")
        state = {
            "version": STATE_VERSION,
            "progress": asdict(progress),
            "identity": dict(identity),
            "sha256": {path.name: file_sha256(path) for path in sorted(beside.iterdir())},
        }
        (beside / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    kept = checkpoints(folder)[-KEPT_CHECKPOINTS:]
    if progress.best_step is not None:
        kept.append(checkpoint_folder(folder, progress.best_step))
    for old in set(checkpoints(folder)) - set(kept):
        remove_whole(old)
    return checkpoint_folder(folder, progress.step)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under `folder`, oldest first."""
    return sorted(folder.glob("step-*"))


def load_state(
    checkpoint: Path,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    identity: Mapping[str, Any],
) -> Progress:
    """Continue from a checkpoint.

    Raises ValueError when it is damaged, or was written with another identity (params or data).
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        version = state["version"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{checkpoint / 'state.json'} is damaged; delete {checkpoint} to go on without"
        ) from error
    if version != STATE_VERSION:
        raise ValueError(f"{checkpoint} has version {version}, not {STATE_VERSION}")
    for name, sha256 in state["sha256"].items():
        if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != sha256:
            raise ValueError(
                f"{checkpoint / name} is damaged; delete {checkpoint} to go on without"
            )
    differing = {
        key: (state["identity"].get(key), identity.get(key))
        for key in sorted(state["identity"].keys() | identity.keys())
        if state["identity"].get(key) != identity.get(key)
    }
    if differing:
        shown = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())
        raise ValueError(f"{checkpoint} belongs to another training: {shown}")
    load_weights(model, checkpoint / "model.safetensors")
    restore_optimizers(optimizers, load_file(checkpoint / "optimizer.safetensors"))
    return Progress(**state["progress"])


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All state tensors under names `optimizer.parameter.key`."""
    return {
        f"{i}.{parameter}.{key}": value.contiguous()
        for i, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Undo `optimizer_tensors`. Learning rates and the like stay as they are."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        i, parameter, key = name.split(".", 2)
        states[int(i)].setdefault(int(parameter), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
