"""The process that runs one stage by DVC if it is out of date: `-m pipelines.stage_process NAME`.

It uses DVC's own API, whose exceptions say why a stage was not run, and writes how it ended to
NANOGPT_STATUS_FILE unless the stage itself has. No file means that nothing had to run. When the
process that started it is gone, it stops the stage, which then writes a checkpoint.
"""

import argparse
import logging
import os
import re
import signal
import sys
from pathlib import Path

import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage.exceptions import StageCmdFailedError

from stages.runtime.errors import EXPECTED, Kind, kind_of, message_of
from stages.runtime.redaction import redact_tracebacks, redacted
from stages.runtime.status import Status, read_status
from stages.runtime.supervise import on_exit

DVC_LOCK = Path(".dvc/tmp/lock")  # contains the PID of the process that holds it
BLOCKER = re.compile(r"^  \(PID (\d+)\): (.+)$", re.MULTILINE)  # a line of DVC's LockError


def main() -> None:
    """Run `-m pipelines.stage_process NAME [--force]`."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.stage_process")
    parser.add_argument("stage")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    redact_tracebacks()
    logging.getLogger("dvc").setLevel(logging.ERROR)
    on_exit([psutil.Process(os.getppid())], stop_group)
    file = Path(os.environ["NANOGPT_STATUS_FILE"])
    try:
        with Repo() as repo:
            repo.reproduce(options.stage, single_item=True, force=options.force)
    except (DvcException, *EXPECTED) as error:
        status = status_of(options.stage, error, file)
        if status != read_status(file):  # or the stage has printed and written it
            print(f"{options.stage}: {status.message}", file=sys.stderr)
            status.write(file)
        sys.exit(1)


def stop_group() -> None:
    """Ask this process group, which the runner created for this stage, to stop."""
    os.killpg(os.getpgrp(), signal.SIGTERM)


def status_of(stage: str, error: BaseException, file: Path) -> Status:
    """Return why a stage failed: what it reported itself, else what DVC's exception says."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, LockError):
            return Status(stage, "busy", busy_message(str(cause)))
        if isinstance(cause, StageCmdFailedError):
            reported = read_status(file)
            if reported and reported.kind != "done":
                return reported
            return Status(stage, "crash", died_message(cause.args[0]))
    kinds: list[Kind] = [kind_of(cause) for cause in causes if isinstance(cause, OSError)]
    kind = kinds[0] if kinds else "input"  # a missing file, a damaged dvc.lock, …
    lines = dict.fromkeys(redacted(message_of(cause)) for cause in causes)
    return Status(stage, kind, ": ".join(lines))


def died_message(command: str) -> str:
    """Return the message for a stage that wrote no status, from the exit code in DVC's message.

    A shell between DVC and the stage reports a signal as 128 more than its number.
    """
    found = re.search(r"exited with (-?\d+)$", command)
    code = int(found[1]) if found else 1
    number = -code if code < 0 else code - 128
    if number not in set(signal.Signals):
        return "failed with an unexpected error; its output ends with the traceback"
    perhaps = ", perhaps because memory ran out" if number == signal.SIGKILL else ""
    return f"was killed by signal {number} ({signal.Signals(number).name}){perhaps}"


def busy_message(message: str) -> str:
    """Return who holds DVC's locks, and what to do."""
    blockers = dict(BLOCKER.findall(message))
    if not blockers:
        pid = DVC_LOCK.read_text().strip() if DVC_LOCK.exists() else "unknown"
        blockers = {pid: command_of(pid)}
    holders = ", ".join(f"process {pid} ({command})" for pid, command in blockers.items())
    return f"DVC is already running here: {holders}; wait for it to finish or stop it"


def command_of(pid: str) -> str:
    """Return the command line of a process, which may have exited."""
    try:
        return redacted(" ".join(psutil.Process(int(pid)).cmdline()))
    except (ValueError, psutil.Error):
        return "which has ended, or is on another machine"


if __name__ == "__main__":
    main()
