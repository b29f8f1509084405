"""What becomes of the training loop's events: curves on disk, metrics in MLflow, lines to read."""

import csv
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nanogpt.files import write_whole
from nanogpt.flops import flops_per_token, peak_flops
from nanogpt.memory import peak_memory_bytes
from nanogpt.model import GPT
from nanogpt.runtime import Runtime
from nanogpt.train import CheckpointWritten, Ended, Evaluated, Started, StepDone, TrainEvent
from stages.tracking import Tracker

TRAIN_COLUMNS = ("step", "loss", "lr", "grad_norm")
VAL_COLUMNS = ("step", "loss")


class Curve:
    """A CSV file that grows by a row at a time; the same steps give the same bytes."""

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        self.file = file
        self.columns = columns

    def start_after(self, step: int) -> None:
        """Keep the rows up to `step`, which is where the training goes on."""
        kept = [row for row in self.rows() if int(row["step"]) <= step]
        lines = [self.columns, *([row[name] for name in self.columns] for row in kept)]
        write_whole(self.file, "".join(",".join(line) + "\n" for line in lines))

    def rows(self) -> list[Mapping[str, str]]:
        """All whole rows."""
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def add(self, *values: float) -> None:
        """Append one row."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{value:.9g}" for value in values) + "\n")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What tells how much of a device a training uses."""

    device: torch.device
    flops_per_token: int
    peak_flops: float | None  # of all devices together; None where a device's is not known

    @classmethod
    def of(cls, model: GPT, runtime: Runtime) -> "Hardware":
        """The figures of a model where it runs."""
        on_gpu = runtime.device.type == "cuda"
        name = torch.cuda.get_device_name(runtime.device) if on_gpu else "CPU"
        peak = peak_flops(name, runtime.dtype)
        return cls(
            device=runtime.device,
            flops_per_token=flops_per_token(model),
            peak_flops=peak and peak * runtime.world_size,
        )

    def metrics(self, tokens_per_second: float) -> dict[str, float]:
        """Memory used at the most and, where it can be told, the model's share of the peak."""
        found = {"peak_memory_gib": peak_memory_bytes(self.device) / 2**30}
        if self.peak_flops is not None:
            found["mfu"] = tokens_per_second * self.flops_per_token / self.peak_flops
        return found


class Recorder:
    """Takes each event of one training."""

    def __init__(
        self,
        folder: Path,
        tracker: Tracker,
        *,
        max_steps: int,
        batch_tokens: int,
        interval: int,
        hardware: Hardware,
    ) -> None:
        self.hardware, self.skipped = hardware, 0
        self.train = Curve(folder / "train.csv", TRAIN_COLUMNS)
        self.val = Curve(folder / "val.csv", VAL_COLUMNS)
        self.tracker = tracker
        self.recorded = {name: tracker.last_step(name) for name in ("train/loss", "val/loss")}
        self.max_steps, self.batch_tokens, self.interval = max_steps, batch_tokens, interval
        self.seconds: deque[float] = deque(maxlen=50)
        self.loader_seconds: deque[float] = deque(maxlen=50)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), transient=True
        )
        self.task = self.progress.add_task("training", total=max_steps)

    def take(self, event: TrainEvent) -> None:
        """Record one event."""
        if isinstance(event, Started):
            self.take_start(event)
        elif isinstance(event, StepDone):
            self.take_step(event)
        elif isinstance(event, Evaluated):
            self.val.add(event.step, event.loss)
            if event.step > self.recorded["val/loss"]:
                self.tracker.record("metrics", step=event.step, values={"val/loss": event.loss})
            self.say(f"step {event.step:>6}  val loss {event.loss:.4f}{' *' * event.is_best}")
        elif isinstance(event, CheckpointWritten | Ended):
            self.progress.refresh()

    def take_start(self, event: Started) -> None:
        """Say how the batch is made up and bring the curves to where the training goes on."""
        self.train.start_after(event.step)
        self.val.start_after(event.step)
        if sys.stdout.isatty():
            self.progress.start()
        if event.step == self.max_steps:
            self.say("trained before; its model is written again")
        elif event.step:
            self.say(f"continuing after step {event.step}")
        self.say(f"micro-batch {event.micro_batch}, accumulated {event.accumulation} times")
        if event.too_large:
            self.say(f"there was no memory for a micro-batch of {event.too_large}")

    def take_step(self, event: StepDone) -> None:
        """Add a point to the curves, and now and then a line and the metrics."""
        self.train.add(event.step, event.loss, event.lr, event.grad_norm)
        self.skipped += event.skipped
        self.seconds.append(event.seconds)
        self.loader_seconds.append(event.loader_seconds)
        speed = self.batch_tokens / median(self.seconds)
        self.progress.update(
            self.task,
            completed=event.step,
            description=f"step {event.step} loss {event.loss:.3f} {speed:,.0f} tok/s",
        )
        if event.step % self.interval and event.step != self.max_steps:
            return
        if not sys.stdout.isatty():
            left = (self.max_steps - event.step) * median(self.seconds)
            self.say(
                f"step {event.step:>6}  loss {event.loss:.4f}  lr {event.lr:.2e}  "
                f"{speed:,.0f} tok/s  {timedelta(seconds=round(left))} left"
            )
        if event.step > self.recorded["train/loss"]:
            values = {
                "train/loss": event.loss,
                "lr": event.lr,
                "grad_norm": event.grad_norm,
                "tokens_per_second": speed,
                "loader_share": sum(self.loader_seconds) / sum(self.seconds),
                "skipped_steps": self.skipped,
                **self.hardware.metrics(speed),
            }
            self.tracker.record("metrics", step=event.step, values=values)

    def say(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self.progress.console.print(line, highlight=False)

    def close(self) -> None:
        """Take the progress bar away."""
        self.progress.stop()
