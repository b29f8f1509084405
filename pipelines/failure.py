"""Why a command of DVC failed: what the stage reported, else what DVC itself printed."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from stages.runtime.errors import Kind, says_full

DVC_LOCK = Path(".dvc/tmp/lock")  # contains the number of the process that holds it
LOCKED = "ERROR: Unable to acquire lock"  # DVC's words, when it is the whole repository's
BLOCKED = "is busy, it is being blocked by:"  # DVC's words, before a line for each process
BLOCKER = re.compile(r"  \(PID (\d+)\): (.+)")


def failure(status: Path, printed: Sequence[str]) -> tuple[Kind, str]:
    """Return the kind of a failure and what to say of it.

    A stage reports an expected failure in the file `status`; one that was killed does not, nor does
    DVC report its own.
    """
    if status.exists():
        reported = json.loads(status.read_text())
        return reported["kind"], reported["message"]
    if holders := dvc_holders(printed):
        return "busy", f"DVC is at work here: {holders}; wait for it to end, or stop it"
    errors = [line for line in printed if line.startswith("ERROR: ")]
    said = errors[-1].removeprefix("ERROR: ") if errors else "died; see its log"
    return ("full" if says_full(said) else "crash"), said


def dvc_holders(printed: Sequence[str]) -> str:
    """Return the processes that kept DVC from its locks; nothing where none did."""
    blockers: dict[str, str] = {}
    if any(line.endswith(BLOCKED) for line in printed):
        blockers = {b[1]: b[2] for b in map(BLOCKER.fullmatch, printed) if b}
    if not blockers and any(line.startswith(LOCKED) for line in printed):
        pid = DVC_LOCK.read_text().strip() if DVC_LOCK.exists() else ""
        blockers = {pid or "unknown": command_of(pid)}
    return ", ".join(f"process {pid} ({command})" for pid, command in blockers.items())


def command_of(pid: str) -> str:
    """Return the command line of a process, which may have ended meanwhile."""
    try:
        return " ".join(psutil.Process(int(pid)).cmdline())
    except (ValueError, psutil.Error):
        return "which has ended, or is on another machine"
