"""The status file: how a stage ended, for the process that started it.

DVC does not pass on exit codes, so whoever wants to know sets NANOGPT_STATUS_FILE.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nanogpt.files import atomic_write
from stages.runtime.errors import Kind


@dataclass(frozen=True)
class Status:
    """How a stage ended: `done`, or the kind of its failure and the message to show."""

    stage: str
    kind: Kind | Literal["done"]
    message: str = ""
    micro_batch_tokens: int | None = None  # that did not fit into the device's memory
    window_tokens: int | None = None  # the smallest micro-batch: one window

    def write(self, file: Path) -> None:
        """Write the status to a file, atomically."""
        atomic_write(file, json.dumps(asdict(self)))


def read_status(file: Path) -> Status | None:
    """Return the status in a file; None if the stage has not written one."""
    return Status(**json.loads(file.read_text())) if file.exists() else None
