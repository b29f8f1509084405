"""What can go wrong in a stage that is not a bug: reported in one message, without a traceback."""

import errno
import os
import shutil
from typing import Literal

Kind = Literal["input", "network", "busy", "full", "interrupted", "crash"]
EXIT_CODES: dict[Kind, int] = {
    "input": 2,
    "network": 75,
    "busy": errno.EBUSY,  # 16
    "full": errno.ENOSPC,  # 28
    "interrupted": 130,
    "crash": 1,
}
FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


class Interrupted(Exception):
    """The stage was asked to stop and did so in good order; run again, it continues."""


class Crashed(Exception):
    """A process of the stage died under it; run again, it continues."""


class Busy(Exception):
    """Another process holds what the stage needs; the message names it."""


class Full(Exception):
    """The disk, or the user's share of it, has no space left; the message says what is kept."""


EXPECTED = (
    ValueError,
    OSError,
    FloatingPointError,
    Interrupted,
    Crashed,
    Busy,
    Full,
    KeyboardInterrupt,
)


def kind_of(error: BaseException) -> Kind:
    """Return what sort of expected failure an exception is."""
    if isinstance(error, ConnectionError | TimeoutError):
        return "network"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Crashed):
        return "crash"
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, Full) or (isinstance(error, OSError) and says_full(str(error))):
        return "full"
    return "input"


def says_full(text: str) -> bool:
    """Return whether an error's text is of a full disk.

    Only the text tells: libraries wrap the system's error in exceptions without its number, as
    `shutil.copytree` and safetensors do.
    """
    return any(words in text for words in FULL)


def reason_of(error: BaseException) -> str:
    """Return an exception's own words; of a folder's copy, those on the first file that failed."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return str(error) or type(error).__name__


def message_of(error: BaseException) -> str:
    """Return what to say of an expected failure."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run it again, nothing is half done"
    if isinstance(error, OSError) and kind_of(error) == "full":
        return f"no space left on the disk ({reason_of(error)}); free some and run it again"
    return reason_of(error)
