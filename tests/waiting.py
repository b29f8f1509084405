"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import Any

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
