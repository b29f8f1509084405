"""Waiting for what other processes do."""

import fcntl
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

PAGE = 4096  # bytes, the smallest pipe
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
    """Read a training's output until it reports `step`.

    With NANOGPT_LOG_INTERVAL=1 it then stays less than a hundred steps ahead until more is read,
    however fast the machine is: a pipe of one page holds 45 lines.
    """
    assert process.stdout is not None
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # on Linux
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PAGE)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step") and int(line.split()[1].replace(",", "")) >= step:
            return
    pytest.fail(f"the training ended before step {step}:\n{''.join(seen)}")
