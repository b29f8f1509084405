"""The progress of a stage in a file, for the process that started it.

The flow sets NANOGPT_PROGRESS_FILE, shows the progress, and treats a stage that stops writing
as hung.
"""

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from nanogpt.files import atomic_write

WRITE_SECONDS = 1.0  # at most this often


@dataclass(frozen=True)
class Progress:
    """The progress of a training run."""

    step: int
    max_steps: int
    loss: float | None
    tokens_per_second: float | None
    step_seconds: float | None  # the usual duration of an update
    seconds_left: float | None


class ProgressFile:
    """The writer: it replaces the file at most every WRITE_SECONDS."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.written = float("-inf")

    def write(self, progress: Progress) -> None:
        """Write the progress unless it was written a moment ago."""
        now = time.monotonic()
        last = progress.step == progress.max_steps
        if self.file is not None and (last or now - self.written >= WRITE_SECONDS):
            with suppress(OSError):  # a full disk, perhaps: the training run needs no progress
                atomic_write(self.file, json.dumps(asdict(progress)))
            self.written = now


def read_progress(file: Path) -> Progress | None:
    """Return the progress in a file; None before the first update."""
    return Progress(**json.loads(file.read_text())) if file.exists() else None
