"""Checkpoints: the training state on disk.

Tensors are safetensors, everything else is JSON; nothing is pickled. Checkpoints are written
atomically (see `nanogpt.files`).

A training state consists of weights, optimizer states, the progress of the run and its
identity (params and data). It holds no random state: the order of the data is a function of
(seed, step), dropout one of (seed, window). One process writes the full tensors, even if they are
sharded, so that any number of processes may resume from them, under `ddp` or `fsdp`
(docs/decisions/0013).
"""

import json
from collections.abc import Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nanogpt.config import GPTConfig
from nanogpt.files import atomic_dir, atomic_rmtree, file_sha256, link, write_json
from nanogpt.model.files import MODEL_FILES, load_weights, write_model
from nanogpt.model.gpt import GPT
from nanogpt.model.tensor_files import write_tensors
from nanogpt.runtime import distribute_like, full_tensor

STATE_VERSION = 2
KEPT_CHECKPOINTS = 2  # the newest, and the one before in case the newest is damaged


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a training run. Steps count finished updates."""

    step: int
    best_step: int | None
    best_loss: float | None

    def with_val_loss(self, loss: float) -> "Progress":
        """Return the progress updated with the validation loss at `step`."""
        if self.best_loss is not None and loss >= self.best_loss:
            return self
        return replace(self, best_step=self.step, best_loss=loss)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A copy, on the CPU, of what a training run needs to resume."""

    config: GPTConfig
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    progress: Progress
    scaler: Mapping[str, float]  # state of the loss scaler; empty without one


def copy_state(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
    *,
    scaler: Mapping[str, float] | None = None,
    keep: bool = True,
) -> TrainingState | None:
    """Gather and copy the full state in processes that `keep` it; the others get None.

    Under `fsdp` every process must call this, as each holds a shard.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    weights = dict(cpu_copies(parameters, keep=keep))
    optimizer = dict(cpu_copies(optimizer_tensors(optimizers), keep=keep))
    if not keep:
        return None
    return TrainingState(
        config=model.config,
        weights=weights,
        optimizer=optimizer,
        progress=progress,
        scaler=dict(scaler or {}),
    )


def cpu_copies(tensors: Mapping[str, Tensor], *, keep: bool) -> Iterator[tuple[str, Tensor]]:
    """Gather full tensors one by one and yield copies on the CPU, or nothing unless `keep`."""
    for name, tensor in tensors.items():
        gathered = full_tensor(tensor)
        if keep:
            yield name, gathered.to("cpu", copy=True)


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` updates."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under `folder`, all complete, oldest first."""
    return sorted(folder.glob("step-*"))


def save_state(folder: Path, state: TrainingState, identity: Mapping[str, Any]) -> Path:
    """Write one checkpoint under `folder`, then drop all but the newest ones and the best."""
    progress = state.progress
    target = checkpoint_folder(folder, progress.step)
    with atomic_dir(target) as draft:
        write_model(draft, state.config, state.weights)
        write_tensors(state.optimizer, draft / "optimizer.safetensors")
        content = {
            "version": STATE_VERSION,
            "progress": asdict(progress),
            "scaler": dict(state.scaler),
            "identity": dict(identity),
            "sha256": {path.name: file_sha256(path) for path in sorted(draft.iterdir())},
        }
        write_json(draft / "state.json", content)
    kept = checkpoints(folder)[-KEPT_CHECKPOINTS:]
    if progress.best_step is not None:
        kept.append(checkpoint_folder(folder, progress.best_step))
    for old in set(checkpoints(folder)) - set(kept):
        atomic_rmtree(old)
    return target


class CheckpointWriter:
    """Writes checkpoints in a background thread, one at a time, while training continues.

    Leaving its context waits for the one being written, whatever ended the run.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.writing: tuple[int, Future[Path]] | None = None

    def start(self, state: TrainingState | None) -> None:
        """Start to write `state`, if this process has it; no other write may be in progress."""
        if state is not None:
            assert self.writing is None  # finished(wait=True) comes first
            future = self.thread.submit(save_state, self.folder, state, self.identity)
            self.writing = state.progress.step, future

    def busy(self, *, wait_seconds: float) -> bool:
        """Return whether a checkpoint is still being written after up to `wait_seconds`."""
        if self.writing is None:
            return False
        return bool(futures.wait([self.writing[1]], timeout=wait_seconds).not_done)

    def finished(self, *, wait: bool) -> Iterator[tuple[int, Path]]:
        """Yield (step, folder) of the checkpoint completed since the last call, if there is one.

        With `wait`, waits for the one being written. Raises OSError when it could not be written.
        """
        if self.writing is not None and (wait or self.writing[1].done()):
            (step, future), self.writing = self.writing, None
            yield step, future.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thread.shutdown(wait=True)
        if self.writing is None or (failure := self.writing[1].exception()) is None:
            return
        if error is None or isinstance(error, GeneratorExit):
            raise failure
        error.add_note(f"and the checkpoint being written failed: {failure}")


def read_state(checkpoint: Path, *, way_out: str | None = None) -> dict[str, Any]:
    """Read state.json and verify the SHA-256 of every file it names.

    Raises ValueError naming a damaged file and the way out, by default to continue without it.
    """
    way_out = way_out or f"delete {checkpoint} to continue without it"
    file = checkpoint / "state.json"
    try:
        state: dict[str, Any] = json.loads(file.read_text())
        version = state["version"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is {damage_of(file)}; {way_out}") from error
    if version != STATE_VERSION:
        raise ValueError(f"{checkpoint} has version {version}, not {STATE_VERSION}; {way_out}")
    for name, sha256 in state["sha256"].items():
        file = checkpoint / name
        if not file.is_file() or file_sha256(file) != sha256:
            raise ValueError(f"{file} is {damage_of(file)}; {way_out}")
    return state


def damage_of(file: Path) -> str:
    """Return what is wrong with a file that is not as it was written."""
    return "damaged" if file.exists() else "missing"


def load_state(
    checkpoint: Path,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    identity: Mapping[str, Any],
) -> tuple[Progress, dict[str, float]]:
    """Load a checkpoint into model and optimizers; return its progress and loss-scaler state.

    Raises ValueError when it is damaged, or was written with another identity (params or data).
    """
    state = read_state(checkpoint)
    differing = {
        key: (state["identity"].get(key), identity.get(key))
        for key in sorted(state["identity"].keys() | identity.keys())
        if state["identity"].get(key) != identity.get(key)
    }
    if differing:
        shown = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())
        raise ValueError(f"{checkpoint} belongs to a different run: {shown}")
    load_weights(model, checkpoint / "model.safetensors")
    restore_optimizers(optimizers, load_file(checkpoint / "optimizer.safetensors"))
    return Progress(**state["progress"]), state["scaler"]


def link_model(checkpoint: Path, folder: Path) -> None:
    """Link the model's files from a checkpoint. Raises ValueError when it is damaged.

    The bytes are on the disk once: no file of a checkpoint or model is ever changed, only replaced.
    """
    read_state(checkpoint, way_out=f"delete {checkpoint.parent} to train this model again")
    for name in MODEL_FILES:
        link(checkpoint / name, folder / name)


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all optimizer state tensors, named `optimizer.parameter.key`."""
    return {
        f"{i}.{parameter}.{key}": value
        for i, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Load the result of `optimizer_tensors`; hyperparameters stay as they are."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    params = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
    for name, tensor in tensors.items():
        i, parameter, key = name.split(".", 2)
        p = params[int(i)][int(parameter)]
        like_param = tensor.shape == p.shape  # otherwise a scalar: the number of updates
        state = states[int(i)].setdefault(int(parameter), {})
        state[key] = distribute_like(tensor, p) if like_param else tensor
    for optimizer, values in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": values, "param_groups": groups})
