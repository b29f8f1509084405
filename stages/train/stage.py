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
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

import nanogpt
from nanogpt.data.stream import WindowOrder
from nanogpt.files import file_sha256, write_whole
from stages.artifacts.shards import Shards
from stages.lib.params import Section, load_section, zero_or_at_least
from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.entry import main
from stages.runtime.errors import EXIT_CODES, Crashed, Full, Interrupted, says_full
from stages.runtime.outcome import end_file, full, raise_unless_finished, reserved
from stages.runtime.settings import Settings
from stages.runtime.supervise import exclusive, run_supervised
from stages.train.initial_weights import check_initial
from stages.weights.stage import OUT as WEIGHTS
from stages.weights.stage import check_recorded, weights_sha256

SHARDS, OUT, RUNS = Path("data/shards"), Path("models/gpt"), Path("runs")
LOCK = RUNS / "train.lock"
SHOWN_LINES = 30  # of what a process said before it died
SHARE, UPDATES = "a share of max_steps below 1, such as 0.01", "a number of updates, such as 10"
TORCHRUN_SUMMARY = "torch/distributed/elastic/multiprocessing/api.py"  # what follows is its own


class ModelParams(Section):
    """The section `model`: GPTConfig but for vocab_size, which the tokenizer decides."""

    block_size: int = Field(ge=8, le=1 << 17)
    n_layer: int = Field(ge=1, le=256)
    n_head: int = Field(ge=1, le=256)
    n_embd: int = Field(ge=8, le=1 << 15)
    dropout: float = Field(ge=0, lt=1)
    bias: bool
    position: Literal["learned", "rotary"]
    norm: Literal["layernorm", "rmsnorm"]
    activation: Literal["gelu", "gelu_exact", "relu2"]
    qk_norm: bool
    zero_init_proj: bool
    tie_weights: bool
    logit_softcap: Annotated[float, Field(ge=0, le=1e6), zero_or_at_least(0.01)]
    ngram_table: int = Field(ge=0, le=1 << 24)
    ngram_order: int = Field(ge=2, le=8)
    mask_documents: bool

    @model_validator(mode="after")
    def heads_divide_channels(self) -> "ModelParams":
        """Each head gets an equal share of the channels, an even one for rotary positions."""
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.position == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n_embd / n_head is {self.n_embd // self.n_head}; rotary positions need it even"
            )
        return self


def share_or_updates(value: object) -> int | float:
    """Return a share of max_steps (a float below 1) or a number of updates (an int) as it is.

    Raises ValueError at anything else; 1.0 too, which could mean one update or all of them.
    """
    if (type(value) is int and value >= 0) or (type(value) is float and 0 <= value < 1):
        return value
    raise ValueError(f"{value!r} is neither {SHARE}, nor {UPDATES}")


def updates_of(amount: int | float, max_steps: int) -> int:
    """Return how many updates a share of max_steps is, rounded, or a number of updates."""
    return amount if isinstance(amount, int) else round(amount * max_steps)


ShareOrUpdates = Annotated[int | float, PlainValidator(share_or_updates)]


class TrainParams(Section):
    """The section `train`."""

    renamed: ClassVar[dict[str, tuple[str, str]]] = {
        f"{name}_steps": (name, f"{SHARE}, or {UPDATES}") for name in ("warmup", "decay")
    }

    init_from: str | None
    batch_tokens: int = Field(ge=8)
    max_steps: int = Field(ge=1)
    optimizer: Literal["adamw", "muon"]
    learning_rate: float = Field(gt=0, le=10)
    muon_learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(ge=0, le=10)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    grad_clip: float = Field(ge=0, le=1e6)
    schedule: Literal["cosine", "warmup_stable_decay"]
    warmup: ShareOrUpdates
    decay: ShareOrUpdates
    min_lr_ratio: float = Field(ge=0, le=1)
    eval_interval: int = Field(ge=1)
    eval_tokens: int = Field(ge=1)
    keep: Literal["best", "last"]
    non_finite: Literal["stop", "skip"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    seed: int = Field(ge=0, lt=2**63)

    @field_validator("init_from")
    @classmethod
    def init_is_in_weights(cls, init_from: str | None) -> str | None:
        """DVC watches `weights/` and no other folder."""
        if init_from is None:
            return None
        parts = Path(init_from).parts
        if len(parts) < 2 or parts[0] != "weights" or ".." in parts:
            raise ValueError(f"{init_from!r} is no folder in weights/, such as weights/gpt2")
        return init_from

    @model_validator(mode="after")
    def schedule_fits(self) -> "TrainParams":
        """Warm-up and decay must fit into the run; shares are compared before they are rounded."""
        amounts = (self.warmup, self.decay)
        wanted = sum(n if isinstance(n, int) else n * self.max_steps for n in amounts)
        if wanted > self.max_steps * (1 + 1e-9):  # 0.7 + 0.2 + 0.1 is not 1 in floating point
            updates = " + ".join(str(updates_of(n, self.max_steps)) for n in amounts)
            raise ValueError(
                f"warmup {self.warmup} + decay {self.decay} ({updates} updates) are more than "
                f"max_steps {self.max_steps}"
            )
        return self

    def schedule_updates(self) -> tuple[int, int]:
        """Return (warm-up, decay) in whole updates, which fit into max_steps.

        A warm-up that is asked for has one update at least; where shares are rounded up, the decay
        takes what is left.
        """
        warmup = max(updates_of(self.warmup, self.max_steps), int(self.warmup > 0))
        return warmup, min(updates_of(self.decay, self.max_steps), self.max_steps - warmup)


def check_batch(model: ModelParams, train: TrainParams) -> None:
    """Raise ValueError when a batch holds no whole number of windows."""
    if train.batch_tokens % model.block_size:
        raise ValueError(
            f"train.batch_tokens {train.batch_tokens} is not a multiple of model.block_size "
            f"{model.block_size}"
        )


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
        write_whole(folder / "identity.json", json.dumps(identity, indent=2) + "\n")
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
    """A hash of the library that trains."""
    files = sorted(Path(nanogpt.__file__).parent.glob("*.py"))
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()


def run_stage(settings: Settings) -> None:
    """`python -m stages.train.stage`."""
    model, train = load_section("model", ModelParams), load_section("train", TrainParams)
    if train.init_from and not settings.join:
        check_recorded(train.init_from, WEIGHTS)
    run(model, train, SHARDS, OUT, settings=settings)


if __name__ == "__main__":
    main("train", run_stage)
