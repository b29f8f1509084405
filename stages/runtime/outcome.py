"""How a training ended, which its processes write to `ended.json` for the launcher.

Even a full disk has space for that file: a training reserves some when it starts and releases it
before the file is written.
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
    """Return the file that says how the training in `folder` ended."""
    return folder / "ended.json"


def reserve_file(folder: Path) -> Path:
    """Return the file that only takes up space."""
    return folder / "reserve"


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Reserve the space that `write_end` releases, and forget how an earlier session ended."""
    end_file(folder).unlink(missing_ok=True)
    reserve_file(folder).write_bytes(bytes(RESERVED_BYTES))
    try:
        yield
    finally:
        reserve_file(folder).unlink(missing_ok=True)


def write_end(
    folder: Path, *, finished: bool, step: int, code: str, error: BaseException | None = None
) -> None:
    """Write how a training ended, and the hash of the code that ran it."""
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
    """Raise what ended the training early: Full, Interrupted, or ValueError for a mistake."""
    ended: dict[str, Any] = json.loads(end_file(folder).read_text())
    if ended["kind"] == "full":
        raise full(ended["error"], folder)
    if ended["error"]:
        raise ValueError(ended["error"])
    if not ended["finished"]:
        raise Interrupted(f"stopped after step {ended['step']}; run again to continue from there")


def full(error: str, folder: Path) -> Full:
    """Return the failure of a training on a full disk, with what of it is kept."""
    steps = [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
    kept = f"the checkpoint of step {max(steps)} is kept" if steps else "there is no checkpoint yet"
    return Full(
        f"no space left on the disk ({error}); {kept} in {folder}: free some space and run again "
        f"to {'continue from there' if steps else 'start'}"
    )
