"""Stage `train`: shards to a model, by torchrun, continuing where an earlier try was cut off.

This module is the launcher: it checks what it is given, holds the lock and supervises. How many
processes there are is decided in `stages.runtime.torchrun`, what each does is in
`stages.train.worker`. The state of an unfinished training is in
`runs/<fingerprint>`, outside of DVC: the fingerprint is of data and params, so that changed ones
never find an old checkpoint.
"""

import hashlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from nanogpt.data.order import WindowOrder
from nanogpt.files import atomic_write, file_sha256
from stages.artifacts.shards import Shards
from stages.artifacts.weights import WEIGHTS, check_recorded, weights_sha256
from stages.lib.params import load_section
from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.errors import EXIT_CODES, Crashed, Full, Interrupted, says_full
from stages.runtime.inputs import code_md5
from stages.runtime.outcome import end_file, full, raise_unless_finished, reserved
from stages.runtime.settings import Settings
from stages.runtime.supervise import exclusive, run_supervised
from stages.train.initial_weights import check_initial
from stages.train.params import ModelParams, TrainParams, check_batch

SHARDS, OUT, RUNS = Path("data/shards"), Path("models/gpt"), Path("runs")
LOCK = RUNS / "train.lock"
SHOWN_LINES = 30  # of what a process said before it died
TORCHRUN_SUMMARY = "torch/distributed/elastic/multiprocessing/api.py"  # what follows is its own


def check_text(model: ModelParams, train: TrainParams, shards: Shards) -> None:
    """Raise ValueError when the training split is shorter than one window."""
    tokens = len(shards.stream("train"))
    WindowOrder(n_tokens=tokens, block_size=model.block_size, seed=train.seed)


def check_processes(settings: Settings, windows: int) -> None:
    """Raise ValueError when more processes are asked for than an update has windows."""
    if settings.processes and settings.processes > windows:
        raise ValueError(
            f"NANOGPT_PROCESSES={settings.processes}, but an update has {windows} windows to share "
            "(train.batch_tokens / model.block_size)"
        )


def identity_of(model: ModelParams, train: TrainParams, shards: Path) -> dict[str, Any]:
    """All that decides the result of a training."""
    return {
        "model": model.model_dump(),
        "train": train.model_dump(),
        "shards_manifest_sha256": file_sha256(shards / "manifest.json"),
        "init_weights_sha256": weights_sha256(Path(train.init_from)) if train.init_from else None,
    }


def fingerprint_of(identity: dict[str, Any]) -> str:
    """A short name of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def run(
    model: ModelParams, train: TrainParams, shards: Path, out: Path, *, settings: Settings
) -> None:
    """Train to the end.

    Raises Interrupted when asked to stop first, Crashed when a process of it dies, Busy while
    another training holds the lock, Full when the disk has no space left, ValueError when the
    training cannot be done.
    """
    check_batch(model, train)
    data = Shards.open(shards)
    check_text(model, train, data)
    if train.init_from:
        check_initial(Path(train.init_from), model.model_dump(), data.tokenizer_folder)
    windows = train.batch_tokens // model.block_size
    check_processes(settings, windows)
    identity = identity_of(model, train, shards)
    folder = RUNS / fingerprint_of(identity)
    paths = [str(path) for path in (folder, shards, out)]
    command = [sys.executable, "-m", "stages.runtime.torchrun", str(windows), *paths]
    if settings.join:
        folder.mkdir(parents=True, exist_ok=True)
        launch(command, folder, ())
        return
    with exclusive(LOCK) as lock:
        forget_finished(except_for=folder)
        for left in folder.glob(".*"):  # of a kill while a checkpoint was written or removed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "identity.json", json.dumps(identity, indent=2) + "\n")
        try:
            with reserved(folder):
                launch(command, folder, (lock,))
        except (Crashed, Full, Interrupted):
            if not end_file(folder).exists():
                raise
        raise_unless_finished(folder)


def launch(command: list[str], folder: Path, inherited: tuple[int, ...]) -> None:
    """Run the processes of this machine.

    Raises Crashed, with what they said, when one died, Full when that is of a full disk,
    Interrupted when asked to stop too early, ValueError when none could start as asked.
    """
    log = folder / f"stderr-{socket.gethostname()}.log"
    outcome = run_supervised(command, {**KEEP_FREED_MEMORY, **os.environ}, log, inherited)
    if outcome.code == 0:
        return
    if outcome.asked:
        raise Interrupted("stopped before the first step; run again to start")
    said = log.read_text(errors="replace").split(TORCHRUN_SUMMARY)[0].strip().splitlines()
    if outcome.code == EXIT_CODES["input"]:
        raise ValueError(said[-1])
    if said and says_full(said[-1]):
        raise full(said[-1], folder)
    shown = "\n".join(said[-SHOWN_LINES:])
    raise Crashed(f"a training process died; {log} has all it said, which ends in:\n{shown}")


def forget_finished(*, except_for: Path) -> None:
    """Remove the states of trainings that came to their end, but for one by the same code."""
    for ended in RUNS.glob("*/ended.json"):
        result = json.loads(ended.read_text())
        same = ended.parent == except_for and result["code"] == code_sha256()
        if result["finished"] and not same:
            shutil.rmtree(ended.parent)


def code_sha256() -> str:
    """Return a hash of the code that the stage depends on."""
    return hashlib.sha256(json.dumps(code_md5("train"), sort_keys=True).encode()).hexdigest()


def run_stage(settings: Settings) -> None:
    """`python -m stages train`."""
    model, train = load_section("model", ModelParams), load_section("train", TrainParams)
    if train.init_from and not settings.join:
        check_recorded(train.init_from, WEIGHTS)
    run(model, train, SHARDS, OUT, settings=settings)
