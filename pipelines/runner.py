"""A runner for one command of the flow: it relays the output and leaves no process behind.

However it ends, by the command's exit, an exception or a signal that Prefect turned into one, every
process that the command started is gone afterwards.
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

from pipelines.watch import Hang
from stages.runtime.supervise import GRACE_SECONDS, POLL_SECONDS, Family, kill_all


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Callable[[str], None],
    watch: Callable[[], None],
) -> int:
    """Run `command`, pass each line it prints to `log`, and return its exit code.

    `watch` is called every POLL_SECONDS; if it raises, the command is stopped; after a Hang it is
    killed at once. The output goes through a file: with a pipe, the command would die with its
    reader.
    """
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        family = Family(process.pid)
        with Path(output.name).open(encoding="utf-8", errors="replace") as reader:
            try:
                while process.poll() is None:
                    family.watch()
                    relay(reader, log)
                    watch()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
                relay(reader, log)
                return process.returncode
            except Hang:
                kill_all({process.pid: psutil.Process(process.pid), **family.members})
                raise
            finally:
                stop(process, family)


def relay(reader: IO[str], log: Callable[[str], None]) -> None:
    """Pass the lines that are new to `log`."""
    for line in reader:
        log(line.rstrip("\n"))


def stop(process: "subprocess.Popen[bytes]", family: Family) -> None:
    """Send SIGTERM to the command's process group; after GRACE_SECONDS kill all descendants left.

    The launcher of a training run belongs to that group; it lets its ranks write a checkpoint
    first.
    """
    if process.poll() is None:
        members = family.look()
        group = [child for child in members.values() if in_group(child, process.pid)]
        os.killpg(process.pid, signal.SIGTERM)
        psutil.wait_procs(group, timeout=GRACE_SECONDS)
        process.kill()  # harmless if it has exited
        process.wait()
    kill_all(family.members)


def in_group(process: psutil.Process, group: int) -> bool:
    """Return whether a process is alive and belongs to a process group."""
    try:
        return os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False
