"""Stage `train`: train a model on the shards, resuming an interrupted run.

This module is the launcher: it checks the inputs, holds the lock and supervises the processes.
`stages.runtime.torchrun` decides how many there are, `stages.train.worker` is what each of them
runs. The state of an unfinished run is in `runs/<fingerprint>`, outside of DVC: the
fingerprint is that of data and params, so a run never resumes from another run's checkpoint.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import uuid
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

from nanogpt.data.order import WindowOrder
from nanogpt.files import atomic_write, file_sha256
from stages.artifacts.model import MODEL
from stages.artifacts.shards import SHARDS, Shards
from stages.artifacts.weights import WEIGHTS, check_recorded, weights_sha256
from stages.lib.params import load_section
from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.errors import EXIT_CODES, Crashed, Full, Interrupted, reports_full_disk
from stages.runtime.inputs import code_md5
from stages.runtime.outcome import disk_full_error, end_file, raise_unless_finished, reserved
from stages.runtime.project import project_folder
from stages.runtime.settings import Settings
from stages.runtime.supervise import GRACE_SECONDS, exclusive_lock, is_locked, run_supervised
from stages.tracking.delivery import deliver_rest, uploading_checkpoints
from stages.tracking.store import is_local
from stages.train.initial_weights import check_initial
from stages.train.params import ModelParams, TrainParams, check_batch
from stages.train.skipped import skip_diverged

RUNS = Path("runs")
LOCK = RUNS / "train.lock"  # held by the one training run that writes OUT
STATE_LOCK = "lock"  # in the folder of a run's state, which workspaces share
WORKER = "stages.train.worker"  # what each process runs
SHOWN_LINES = 30  # of a dead process's stderr
TORCHRUN_SUMMARY = "torch/distributed/elastic/multiprocessing/api.py"  # where its output begins


def check_train_split(shards: Shards, block_size: int, seed: int) -> None:
    """Raise ValueError if the training split is shorter than one window."""
    WindowOrder(n_tokens=len(shards.stream("train")), block_size=block_size, seed=seed)


def check_processes(settings: Settings, windows: int) -> None:
    """Raise ValueError if more processes are set than an update has windows."""
    if settings.processes and settings.processes > windows:
        raise ValueError(
            f"NANOGPT_PROCESSES={settings.processes}, but a training step has only {windows} "
            "windows to distribute (train.batch_tokens / model.block_size)"
        )


def check_kept(settings: Settings, eval_interval: int) -> None:
    """Raise ValueError if NANOGPT_KEEP_CHECKPOINTS asks for steps that have no checkpoint."""
    every = settings.keep_checkpoints
    if every and every % eval_interval:
        raise ValueError(
            f"NANOGPT_KEEP_CHECKPOINTS={every} must be a multiple of train.eval_interval "
            f"({eval_interval}): a checkpoint is written after each evaluation"
        )


def identity_of(model: ModelParams, train: TrainParams, shards: Path) -> dict[str, Any]:
    """Return everything that determines the result of a training run."""
    return {
        "model": model.model_dump(),
        "train": train.model_dump(),
        "shards_manifest_sha256": file_sha256(shards / "manifest.json"),
        "init_weights_sha256": weights_sha256(Path(train.init_from)) if train.init_from else None,
    }


def fingerprint_of(identity: dict[str, Any]) -> str:
    """Return a short hash of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def state_folder() -> Path:
    """Return the folder of the states of all runs, which is that of the project."""
    project = project_folder()
    return RUNS if project == Path.cwd() else project / RUNS  # short where it is printed


def run(
    model: ModelParams, train: TrainParams, shards: Path, out: Path, *, settings: Settings
) -> None:
    """Train a model to the end, or resume its training.

    Raises Interrupted if asked to stop earlier, Crashed if a process dies, OutOfMemory if a device
    has no room for a micro-batch, FloatingPointError if a loss or gradient is not finite, Busy if
    another run holds the lock, Full if the disk is full, ValueError if params, settings or data do
    not allow the run.
    """
    check_batch(model, train)
    config, block_size = train.config(), model.shape().block_size
    data = Shards.open(shards)
    check_train_split(data, block_size, config.seed)
    if train.init_from:
        check_initial(Path(train.init_from), model.model_dump(), data.tokenizer_folder)
    windows = config.batch_tokens // block_size
    check_processes(settings, windows)
    check_kept(settings, config.eval_interval)
    identity = identity_of(model, train, shards)
    folder = state_folder() / fingerprint_of(identity)
    paths = [str(path) for path in (folder, shards, out)]
    command = [sys.executable, "-m", "stages.runtime.torchrun", str(windows), WORKER, *paths]
    if settings.join:
        if not settings.torchrun:
            raise ValueError(
                "NANOGPT_JOIN=true needs NANOGPT_TORCHRUN, the options that the leading node uses"
            )
        folder.mkdir(parents=True, exist_ok=True)
        launch(command, folder, ())
        return
    recorded_elsewhere = settings.tracking and not is_local()
    with exclusive_lock(LOCK) as lock, exclusive_lock(folder / STATE_LOCK) as state_lock:
        remove_finished(except_for=folder)
        for leftover in folder.glob(".*"):  # a checkpoint half written or removed at a kill
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        atomic_write(folder / "identity.json", json.dumps(identity, indent=2) + "\n")
        if settings.skip_diverged:
            skip_diverged(folder)
        uploads = settings.keep_checkpoints and recorded_elsewhere
        uploading = uploading_checkpoints(model_id_of(folder)) if uploads else nullcontext()
        try:
            with reserved(folder), uploading:
                launch(command, folder, (lock, state_lock))
        except (Crashed, Full, Interrupted):
            if not end_file(folder).exists():
                raise
        raise_unless_finished(folder)
    if recorded_elsewhere:  # the processes with the GPUs have ended
        deliver_rest(model_id_of(folder))


def model_id_of(folder: Path) -> str:
    """Return the ID of the model that comes out of this run, the same after every resume."""
    file = folder / "model_id"
    if not file.exists():
        atomic_write(file, uuid.uuid4().hex)
    return file.read_text()


def launch(command: list[str], folder: Path, inherited: tuple[int, ...]) -> None:
    """Run the training processes of this machine.

    Raises Crashed, with the end of their stderr, if one died, Full if it died of a full disk,
    Interrupted if asked to stop before they began, ValueError if they cannot be started as set.
    """
    log = folder / f"stderr-{socket.gethostname()}.log"
    outcome = run_supervised(command, {**KEEP_FREED_MEMORY, **os.environ}, log, inherited)
    if outcome.code == 0:
        return
    if outcome.stop_requested and signal_of(outcome.code) == signal.SIGKILL:
        raise Interrupted(
            f"killed, as it had not stopped {GRACE_SECONDS:.0f} s after it was asked to; run again "
            "to continue from its newest checkpoint"
        )
    if outcome.stop_requested:
        if any(folder.glob("step-*")):
            raise Interrupted("stopped before it resumed; rerun to resume")
        raise Interrupted("stopped before the first step; rerun to start")
    if signum := signal_of(outcome.code):
        memory = ", perhaps because memory ran out" if signum == signal.SIGKILL else ""
        raise Crashed(
            f"a training process was killed by signal {signum} ({signum.name}){memory}; "
            f"its full output is in {log}"
        )
    lines = log.read_text(errors="replace").splitlines()
    stderr = list(takewhile(lambda line: TORCHRUN_SUMMARY not in line, lines))
    if stderr and outcome.code == EXIT_CODES["input"]:
        raise ValueError(stderr[-1])
    if stderr and reports_full_disk(stderr[-1]):
        raise disk_full_error(stderr[-1], folder)
    tail = "\n".join(stderr[-SHOWN_LINES:])
    raise Crashed(f"a training process died; its full output is in {log}; it ends with:\n{tail}")


def signal_of(code: int) -> signal.Signals | None:
    """Return the signal that killed a process with this exit code, its own or a shell's 128 + N."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in set(signal.Signals) else None


def remove_finished(*, except_for: Path) -> None:
    """Remove the states of finished runs, except that of `except_for` if by the same code."""
    for ended in except_for.parent.glob("*/ended.json"):
        outcome = json.loads(ended.read_text())
        same = ended.parent == except_for and outcome["code"] == code_sha256()
        in_use = ended.parent != except_for and is_locked(ended.parent / STATE_LOCK)
        if outcome["finished"] and not same and not in_use:
            remove_state(ended.parent)


def remove_state(folder: Path) -> None:
    """Remove the state of a run, but not its lock, which a process may hold."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != STATE_LOCK:
            path.unlink()


def code_sha256() -> str:
    """Return a hash of the code that the stage depends on."""
    return hashlib.sha256(json.dumps(code_md5("train"), sort_keys=True).encode()).hexdigest()


def run_stage(settings: Settings) -> None:
    """Run `python -m stages train`."""
    model, train = load_section("model", ModelParams), load_section("train", TrainParams)
    if train.init_from and not settings.join:
        check_recorded(train.init_from, WEIGHTS)
    run(model, train, SHARDS, MODEL, settings=settings)
