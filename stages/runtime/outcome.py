"""The outcome of a training run, which its processes write to `ended.json` for the launcher.

The file can be written even on a full disk: a run reserves some space when it starts and
releases it before it writes the file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpt.files import atomic_write
from stages.runtime.errors import Full, Interrupted, OutOfMemory, kind_of, reason_of
from stages.runtime.redaction import redacted

RESERVED_BYTES = 1 << 16


def end_file(folder: Path) -> Path:
    """Return the path of the file that records how the run in `folder` ended."""
    return folder / "ended.json"


def reserve_file(folder: Path) -> Path:
    """Return the path of the placeholder that reserves disk space."""
    return folder / "reserve"


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Reserve the space that `write_end` releases, and delete the outcome of an earlier session."""
    end_file(folder).unlink(missing_ok=True)
    reserve_file(folder).write_bytes(bytes(RESERVED_BYTES))
    try:
        yield
    finally:
        reserve_file(folder).unlink(missing_ok=True)


def write_end(
    folder: Path, *, finished: bool, step: int, code: str, error: BaseException | None = None
) -> None:
    """Write how a training run ended, with the hash `code` of the code that ran it."""
    reserve_file(folder).unlink(missing_ok=True)
    content = {
        "finished": finished,
        "step": step,
        "error": None if error is None else redacted(reason_of(error)),
        "kind": None if error is None else kind_of(error),
        "code": code,
    }
    if isinstance(error, OutOfMemory):
        content["micro_batch_tokens"] = error.micro_batch_tokens
        content["window_tokens"] = error.window_tokens
    atomic_write(end_file(folder), json.dumps(content))


def read_end(folder: Path) -> dict[str, Any]:
    """Read what `write_end` wrote."""
    outcome: dict[str, Any] = json.loads(end_file(folder).read_text())
    return outcome


def raise_unless_finished(folder: Path) -> None:
    """Raise the exception of the outcome's kind if the run ended early.

    It is Full, OutOfMemory, FloatingPointError if the run diverged, Interrupted if it was asked to
    stop, or ValueError for a user error.
    """
    outcome = read_end(folder)
    kind, error = outcome["kind"], outcome["error"]
    if kind == "full":
        raise disk_full_error(error, folder)
    if kind == "memory":
        raise OutOfMemory(error, outcome["micro_batch_tokens"], outcome["window_tokens"])
    if kind == "diverged":
        raise FloatingPointError(error)
    if error:
        raise ValueError(error)
    if not outcome["finished"]:
        raise stopped_error(outcome["step"])


def stopped_error(step: int) -> Interrupted:
    """Return the exception for a run that was asked to stop, after so many updates."""
    if step:
        return Interrupted(f"stopped after step {step}; rerun to resume from there")
    return Interrupted("stopped before the first step; rerun to start")


def disk_full_error(error: str, folder: Path) -> Full:
    """Return the exception for a run on a full disk; it says which checkpoint was saved."""
    steps = saved_steps(folder)
    kept = f"the checkpoint of step {max(steps)} is kept" if steps else "there is no checkpoint yet"
    return Full(
        f"no space left on the disk ({error}); {kept} in {folder}: free some space and rerun to "
        f"{'resume from there' if steps else 'start'}"
    )


def saved_steps(folder: Path) -> list[int]:
    """Return the step of each checkpoint in a run's folder."""
    return [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
