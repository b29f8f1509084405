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
from stages.runtime.errors import Full, Interrupted, kind_of, reason_of
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
    atomic_write(end_file(folder), json.dumps(content))


def raise_unless_finished(folder: Path) -> None:
    """Raise Full, Interrupted, or ValueError for a user error if the run ended early."""
    outcome: dict[str, Any] = json.loads(end_file(folder).read_text())
    if outcome["kind"] == "full":
        raise disk_full_error(outcome["error"], folder)
    if outcome["error"]:
        raise ValueError(outcome["error"])
    if not outcome["finished"]:
        raise Interrupted(f"stopped after step {outcome['step']}; run again to continue from there")


def disk_full_error(error: str, folder: Path) -> Full:
    """Return the exception for a run on a full disk; it says which checkpoint was saved."""
    steps = [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
    kept = f"the checkpoint of step {max(steps)} is kept" if steps else "there is no checkpoint yet"
    return Full(
        f"no space left on the disk ({error}); {kept} in {folder}: free some space and run again "
        f"to {'continue from there' if steps else 'start'}"
    )
