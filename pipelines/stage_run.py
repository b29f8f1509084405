"""Running the stages in order, each until it is done or has failed for good.

Nothing here knows Prefect: `Console` is what a run is shown on, Prefect's page or a terminal.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pipelines.dag import Stage, up_to_date
from pipelines.policies import History
from pipelines.runner import run_command
from pipelines.watch import CANCELLED_SECONDS, Hang, OutOfTime, RunCancelled, Watch
from stages.runtime.errors import Kind
from stages.runtime.progress_file import Progress
from stages.runtime.redaction import redacted
from stages.runtime.settings import read_settings
from stages.runtime.status import Status, read_status

DEFAULT_TIME_LIMIT_HOURS = 24.0 * 14


class StageFailed(Exception):
    """A stage failed for good; `kind` is why."""

    def __init__(self, stage: str, kind: Kind, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.kind = kind


class Console:
    """Display of a run: here, the terminal."""

    def log(self, line: str) -> None:
        """Show a line of a stage, or about it."""
        print(line, flush=True)

    def attempt(
        self, stage: Stage, number: int, work: Callable[[], Status | None]
    ) -> Status | None:
        """Run one try of a stage; return how it ended, None if it had nothing to do."""
        return work()

    def holding(self, stage: Stage) -> AbstractContextManager[None]:
        """Return a context in which the stage has the device for itself."""
        return nullcontext()

    def report(self, stage: Stage, progress: Progress) -> None:
        """Show the progress of a stage; the terminal has the stage's own lines."""

    def begin(self, title: str, corpus: str) -> None:
        """Show what the run is about."""
        self.log(f"build: {title}")

    def show_result(self) -> None:
        """Show the result of all stages; the terminal has the stages' own lines."""

    def cancelled(self) -> bool:
        """Return whether the run was cancelled from elsewhere."""
        return False


class UpToDate:
    """The stages in the current folder that need not run, as DVC says once for all of them."""

    def __init__(self) -> None:
        self.names: set[str] | None = None

    def __contains__(self, stage: object) -> bool:
        if self.names is None:
            self.names = up_to_date(Path.cwd())
        return stage in self.names

    def forget(self) -> None:
        """Ask DVC again, because a stage runs: those after it may depend on what it makes."""
        self.names = None


@dataclass(frozen=True)
class Run:
    """Settings shared by all tries of all stages."""

    environment: Mapping[str, str]
    force: bool
    console: Console
    up_to_date: UpToDate = field(default_factory=UpToDate)


def run_stages(stages: Sequence[Stage], run: Run) -> None:
    """Run the stages that are out of date. Raises StageFailed."""
    for stage in stages:
        run_stage(stage, run)


def run_stage(stage: Stage, run: Run) -> None:
    """Run a stage if it is out of date, as often as the policies allow. Raises StageFailed."""
    history = History(stage)
    number = 1
    settings: Mapping[str, str] = {}
    while True:
        environment = {**run.environment, **settings}
        one = replace(run, environment=environment)
        status = run.console.attempt(stage, number, partial(try_stage, stage, one))
        if status is None or status.kind == "done":
            return
        again = history.after(status)
        if again is None:
            raise StageFailed(stage.name, status.kind, status.message)
        pause = f"in {again.pause:.0f} s" if again.pause else "at once"
        run.console.log(f"{stage.name}: {status.message}; trying again {pause}: {again.reason}")
        wait(again.pause, run.console)
        settings = again.settings
        number += 1


def wait(seconds: float, console: Console) -> None:
    """Wait before another try. Raises RunCancelled if the run is cancelled meanwhile."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, CANCELLED_SECONDS))
        if console.cancelled():
            raise RunCancelled("the run was cancelled")


def try_stage(stage: Stage, run: Run) -> Status | None:
    """Run a stage once by DVC; return how it ended, None if it had nothing to do."""
    if not run.force and stage.name in run.up_to_date:
        return None
    run.up_to_date.forget()
    with run.console.holding(stage) if stage.device else nullcontext():
        return run_process(stage, run)


def run_process(stage: Stage, run: Run) -> Status | None:
    """Run a stage in a process of its own, and watch it."""
    settings = read_settings()
    with tempfile.TemporaryDirectory() as temporary:
        file, progress = Path(temporary) / "status.json", Path(temporary) / "progress.json"
        environment = {
            **os.environ,
            **run.environment,
            "NANOGPT_STATUS_FILE": str(file),
            "NANOGPT_PROGRESS_FILE": str(progress),
        }
        command = [sys.executable, "-m", "pipelines.stage_process", stage.name]
        watch = Watch(
            file=progress,
            limit=settings.time_limits.get(stage.name, DEFAULT_TIME_LIMIT_HOURS) * 3600,
            silence=settings.hang_seconds,
            report=lambda now: run.console.report(stage, now),
            cancelled=run.console.cancelled,
        )
        try:
            code = run_command(
                [*command, *["--force"] * run.force],
                environment,
                lambda line: run.console.log(redacted(line)),
                watch,
            )
        except Hang as error:
            return Status(stage.name, "hang", str(error))
        except OutOfTime as error:  # a retry would not be faster
            return Status(stage.name, "input", str(error))
        watch.look()  # at the last step
        status = read_status(file)
        if code == 0 or (status and status.kind != "done"):
            return status
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Status(stage.name, "crash", f"DVC {how}; see its output above")
