"""What can go wrong in a stage that is not a bug: reported in one message, without a traceback."""

from typing import Literal

Kind = Literal["input", "network", "interrupted", "crash"]
EXIT_CODES: dict[Kind, int] = {"input": 2, "network": 75, "interrupted": 130, "crash": 1}


class Interrupted(Exception):
    """The stage was asked to stop and did so in good order; run again, it continues."""


class Crashed(Exception):
    """A process of the stage died under it; run again, it continues."""


EXPECTED = (ValueError, OSError, FloatingPointError, Interrupted, Crashed, KeyboardInterrupt)


def kind_of(error: BaseException) -> Kind:
    """What sort of expected failure an exception is."""
    if isinstance(error, ConnectionError | TimeoutError):
        return "network"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Crashed):
        return "crash"
    return "input"
