"""Waiting for what other processes do."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

PAGE = 4096  # bytes, the smallest pipe
NOTICE = 2  # seconds until all processes of a training have noticed a signal or a death
BUSY = 4  # how much slower a busy machine may be


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until a condition holds; return its value.

    `seconds` is what a machine needs at most that has nothing else to do.
    """
    deadline = time.monotonic() + BUSY * seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return value


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    """Read a training's output until it reports `step`, and no further.

    With NANOGPT_LOG_INTERVAL=1 it then stays less than fifty steps ahead until more is read,
    however fast the machine is: a pipe of one page holds some 43 lines.
    """
    assert process.stdout is not None
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # on Linux
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PAGE)
    seen = ""
    while character := os.read(process.stdout.fileno(), 1):  # its own reader would read ahead
        seen += character.decode("latin-1")
        if character == b"\n":
            words = seen.splitlines()[-1].split()
            if words[:1] == ["step"] and int(words[1].replace(",", "")) >= step:
                return
    pytest.fail(f"the training ended before step {step}:\n{seen}")


def ask_to_stop(process: "subprocess.Popen[str]") -> None:
    """Send SIGTERM to the launcher of a training that `wait_for_step` holds back.

    It passes it on within half a second, in which a fast machine would get to the end.
    """
    process.send_signal(signal.SIGTERM)
    time.sleep(NOTICE)
