"""A watch over one try of a stage: its progress, its time limit, a hang, and a cancelled run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stages.runtime.errors import Interrupted
from stages.runtime.progress_file import Progress, read_progress

HANG_STEPS = 20  # a training run may be silent for the time of this many typical steps
CANCELLED_SECONDS = 10.0  # between two looks at the state of the run


class Hang(Exception):
    """A stage has stopped making progress: it would not react to a request to stop, either."""


class OutOfTime(Exception):
    """A stage has exceeded its time limit."""


class RunCancelled(Interrupted):
    """The run was cancelled, and the worker has not noticed."""


@dataclass
class Watch:
    """The watch; calling it raises Hang, OutOfTime or RunCancelled when the stage is to be stopped.

    `limit` and `silence` are in seconds. Stages without a progress file have the limit alone.
    """

    file: Path
    limit: float
    silence: float
    report: Callable[[Progress], None]
    cancelled: Callable[[], bool]
    started: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    written: int = 0  # when the progress was last written, by the file's own clock
    moved: float = 0.0  # and by the clock that stands still while a laptop sleeps

    def __call__(self) -> None:
        """Look at the stage once."""
        now = time.monotonic()
        if now - self.started > self.limit:
            hours = self.limit / 3600
            raise OutOfTime(f"exceeded its time limit of {hours:g} hours (NANOGPT_TIME_LIMITS)")
        if now - self.asked > CANCELLED_SECONDS:
            self.asked = now
            if self.cancelled():
                raise RunCancelled("the run was cancelled")
        progress = self.look()
        if progress is None or progress.step == progress.max_steps:
            return
        allowed = max(self.silence, HANG_STEPS * (progress.step_seconds or 0.0))
        written = self.file.stat().st_mtime_ns
        if written != self.written:
            self.written, self.moved = written, now
        silent = now - self.moved
        if silent > allowed:
            raise Hang(f"completed no step for {silent:.0f} s after step {progress.step}")

    def look(self) -> Progress | None:
        """Report and return the progress."""
        progress = read_progress(self.file)
        if progress is not None and progress != self.progress:
            self.progress = progress
            self.report(progress)
        return progress
