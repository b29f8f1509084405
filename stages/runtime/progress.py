"""Progress of a download: a bar on a terminal, a line every few seconds elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from stages.runtime.redaction import redacted

LINE_SECONDS = 10.0  # between lines when there is no terminal


class ProgressBar:
    """A count of downloaded bytes; `total` is None where the size is unknown."""

    def __init__(self, label: str, total: int | None = None, done: int = 0) -> None:
        self.label, self.total, self.done = redacted(label), total, done
        self.console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.bar.add_task(self.label, total=total, completed=done)
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        if self.total is not None:
            self.say(f"{decimal(self.total)} to fetch")
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def add(self, n_bytes: int) -> None:
        """Add that many bytes, and show the progress."""
        self.done += n_bytes
        self.bar.update(self.task, completed=self.done)
        if not self.console.is_terminal and time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            speed = self.done / (self.last_line - self.started)
            of = f" of {decimal(self.total)}" if self.total is not None else ""
            self.say(f"{decimal(self.done)}{of}, {decimal(round(speed))}/s")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(f"{self.label}: {line}", highlight=False, markup=False, soft_wrap=True)
