"""Expected failures of a stage: reported in one message without a traceback, unlike bugs."""

import errno
import os
import shutil
from typing import Literal

Kind = Literal[
    "input", "network", "busy", "full", "interrupted", "crash", "hang", "memory", "diverged"
]
EXIT_CODES: dict[Kind, int] = {
    "input": 2,
    "network": 75,
    "busy": errno.EBUSY,  # 16
    "full": errno.ENOSPC,  # 28
    "memory": errno.ENOMEM,  # 12
    "diverged": errno.EDOM,  # 33
    "hang": errno.ETIMEDOUT,  # 110
    "interrupted": 130,
    "crash": 1,
}
FULL_DISK_MESSAGES = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


class Interrupted(Exception):
    """The stage was asked to stop and shut down cleanly; the next run resumes it."""


class Crashed(Exception):
    """A process of the stage died unexpectedly; the next run resumes it."""


class Busy(Exception):
    """Another process holds a lock that the stage needs; the message names the process."""


class Full(Exception):
    """The disk or the user's quota is full; the message says what was saved."""


class OutOfMemory(Exception):
    """A micro-batch did not fit into the device's memory."""

    def __init__(self, message: str, micro_batch_tokens: int, window_tokens: int) -> None:
        super().__init__(message)
        self.micro_batch_tokens = micro_batch_tokens
        self.window_tokens = window_tokens  # the smallest micro-batch: one window


EXPECTED = (
    ValueError,
    OSError,
    FloatingPointError,
    Interrupted,
    Crashed,
    Busy,
    Full,
    OutOfMemory,
    KeyboardInterrupt,
)


def kind_of(error: BaseException) -> Kind:
    """Classify an expected exception."""
    if isinstance(error, ConnectionError | TimeoutError):
        return "network"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Crashed):
        return "crash"
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, OutOfMemory):
        return "memory"
    if isinstance(error, FloatingPointError):
        return "diverged"
    if isinstance(error, Full) or (isinstance(error, OSError) and reports_full_disk(str(error))):
        return "full"
    return "input"


def reports_full_disk(text: str) -> bool:
    """Return whether an error message reports a full disk.

    The message is all there is to go by: `shutil.copytree` and safetensors, among others, wrap the
    OSError in an exception without its errno.
    """
    return any(message in text for message in FULL_DISK_MESSAGES)


def reason_of(error: BaseException) -> str:
    """Return an exception's message; for a failed `shutil.copytree`, that of the first file."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return str(error) or type(error).__name__


def message_of(error: BaseException) -> str:
    """Return the message to show for an expected failure."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; rerun it, no partial output was left behind"
    if isinstance(error, OSError) and kind_of(error) == "full":
        return f"no space left on the disk ({reason_of(error)}); free some space and rerun"
    return reason_of(error)
