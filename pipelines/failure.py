"""The cause of a failed DVC command: what the stage reported, else what DVC printed."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from stages.runtime.errors import Kind, reports_full_disk

DVC_LOCK = Path(".dvc/tmp/lock")  # contains the PID of the process that holds it
LOCKED = "ERROR: Unable to acquire lock"  # DVC's message about the lock of the repository
BLOCKED = "is busy, it is being blocked by:"  # DVC's message, followed by a line per process
BLOCKER = re.compile(r"  \(PID (\d+)\): (.+)")


def failure(status: Path, output: Sequence[str]) -> tuple[Kind, str]:
    """Return the kind of a failure and the message to show.

    A stage reports an expected failure in the file `status`. A killed stage does not, nor does DVC
    for its own failures, so then the last lines of `output` decide.
    """
    if status.exists():
        reported = json.loads(status.read_text())
        return reported["kind"], reported["message"]
    if holders := dvc_holders(output):
        return "busy", f"DVC is at work here: {holders}; wait for it to finish or stop it"
    errors = [line for line in output if line.startswith("ERROR: ")]
    message = errors[-1].removeprefix("ERROR: ") if errors else "died; see its log"
    return ("full" if reports_full_disk(message) else "crash"), message


def dvc_holders(output: Sequence[str]) -> str:
    """Return the processes that hold DVC's locks; an empty string if none does."""
    blockers: dict[str, str] = {}
    if any(line.endswith(BLOCKED) for line in output):
        blockers = {b[1]: b[2] for b in map(BLOCKER.fullmatch, output) if b}
    if not blockers and any(line.startswith(LOCKED) for line in output):
        pid = DVC_LOCK.read_text().strip() if DVC_LOCK.exists() else ""
        blockers = {pid or "unknown": command_of(pid)}
    return ", ".join(f"process {pid} ({command})" for pid, command in blockers.items())


def command_of(pid: str) -> str:
    """Return the command line of a process, which may have exited."""
    try:
        return " ".join(psutil.Process(int(pid)).cmdline())
    except (ValueError, psutil.Error):
        return "which has ended, or is on another machine"
