"""One command of the flow, its output relayed line by line, nothing of it left behind.

However this ends, by the command's end, an exception or a signal Prefect turned into one, every
process the command started is gone afterwards.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from stages.runtime.supervise import GRACE_SECONDS, POLL_SECONDS, descendants, end_all


def run_command(
    command: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]
) -> int:
    """Run `command` and hand each line it prints to `say`; its exit code.

    The output goes through a file: a pipe would kill the command when its reader dies.
    """
    family: dict[int, psutil.Process] = {}
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with Path(output.name).open(encoding="utf-8", errors="replace") as reader:
            try:
                while process.poll() is None:
                    family.update(descendants(process.pid))
                    relay(reader, say)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
                relay(reader, say)
                return process.returncode
            finally:
                stop(process, family)


def relay(reader: IO[str], say: Callable[[str], None]) -> None:
    """Hand on the lines that have come."""
    for line in reader:
        say(line.rstrip("\n"))


def stop(process: "subprocess.Popen[bytes]", family: dict[int, psutil.Process]) -> None:
    """Ask the command's own group to stop and give it time, then kill all that is left below it.

    The launcher of a training belongs to that group and lets its ranks write a checkpoint first.
    """
    if process.poll() is None:
        family.update(descendants(process.pid))
        group = [child for child in family.values() if in_group(child, process.pid)]
        os.killpg(process.pid, signal.SIGTERM)
        psutil.wait_procs(group, timeout=GRACE_SECONDS)
        process.kill()  # no harm to one that is gone
        process.wait()
    end_all(family)


def in_group(process: psutil.Process, group: int) -> bool:
    """Whether a process, if it still lives, belongs to a process group."""
    try:
        return os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False
