"""A handler of the training loop's events: metrics for MLflow, samples, terminal output."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from nanogpt.flops import flops_per_token, peak_flops
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import Ended, Evaluated, Started, StepDone, TrainEvent
from nanogpt.train.micro_batch import peak_memory_bytes
from nanogpt.train.skipped_data import NOTHING_SKIPPED, SkippedData
from nanogpt.train.validation import bits_per_byte
from stages.runtime.progress_file import Progress, ProgressFile
from stages.tracking.display import Display
from stages.tracking.samples import SampleTable, TrainingSamples
from stages.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Constants of model and device from which memory use and MFU are computed."""

    device: torch.device
    flops_per_token: int
    peak_flops: float | None  # of all devices together; None if unknown

    @classmethod
    def of(cls, model: GPT, runtime: Runtime) -> "Hardware":
        """Return the constants of a model on the devices of `runtime`."""
        on_gpu = runtime.device.type == "cuda"
        name = torch.cuda.get_device_name(runtime.device) if on_gpu else "CPU"
        peak = peak_flops(name, runtime.dtype)
        return cls(
            device=runtime.device,
            flops_per_token=flops_per_token(model),
            peak_flops=peak and peak * runtime.world_size,
        )

    def metrics(self, tokens_per_second: float) -> dict[str, float]:
        """Return the peak memory in GiB and, if the peak FLOPS are known, the MFU."""
        values = {"system/peak_memory_gib": peak_memory_bytes(self.device) / 2**30}
        if self.peak_flops is not None:
            values["speed/mfu"] = tokens_per_second * self.flops_per_token / self.peak_flops
        return values


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a training run, known before its first step."""

    n_params: int
    max_steps: int
    batch_tokens: int
    processes: int
    val_tokens: int  # in the validation split
    val_bytes: int
    muon_lr_ratio: float | None = None  # Muon's learning rate over AdamW's; None without Muon


class Recorder:
    """The handler of one run's events.

    Every `interval` steps it records metrics. Without `samples` the model writes no samples.
    `losses` returns the losses of all earlier steps, with which the displayed curve begins.
    """

    def __init__(
        self,
        folder: Path,
        tracker: Tracker,
        plan: Plan,
        *,
        interval: int,
        hardware: Hardware,
        samples: TrainingSamples | None,
        losses: Callable[[], list[float]],
        progress: ProgressFile,
        skipped: SkippedData = NOTHING_SKIPPED,
    ) -> None:
        self.losses, self.progress, self.skipped_data = losses, progress, skipped
        self.latest: Progress | None = None  # that was written to the progress file
        self.plan, self.interval, self.hardware, self.skipped = plan, interval, hardware, 0
        self.samples, self.table = samples, SampleTable(folder)
        self.tracker = tracker
        self.recorded = {name: tracker.last_step(name) for name in ("train/loss", "val/loss")}
        self.seconds: deque[float] = deque(maxlen=50)
        self.loader_seconds: deque[float] = deque(maxlen=50)
        self.clock = Clock()
        self.display = Display(max_steps=plan.max_steps, interval=interval)

    def handle(self, event: TrainEvent) -> None:
        """Dispatch one event."""
        if isinstance(event, Started):
            self.handle_start(event)
        elif isinstance(event, StepDone):
            self.handle_step(event)
        elif isinstance(event, Evaluated):
            self.handle_evaluation(event)
        elif isinstance(event, Ended):
            self.display.close()
        elif self.latest and self.latest.step < self.plan.max_steps:
            self.progress.write(self.latest)  # again: the run is alive

    def handle_start(self, event: Started) -> None:
        """Print the size of the run, and start the display."""
        self.table.start_after(event.step)
        if self.skipped_data.windows_of_steps and event.step == self.skipped_data.after_step:
            # the updates that follow are others than those that an earlier session recorded
            self.recorded = {name: min(last, event.step) for name, last in self.recorded.items()}
        self.skipped = int(self.tracker.last_value("train/skipped_steps", event.step) or 0)
        for line in start_lines(self.plan, event):
            self.display.log(line)
        if where := self.tracker.live_curves():
            self.display.log(f"live curves: {where}")
        self.display.start(self.losses())

    def handle_step(self, event: StepDone) -> None:
        """Update the progress, and record the metrics every `interval` steps."""
        self.skipped += event.skipped
        self.seconds.append(event.seconds)
        self.loader_seconds.append(event.loader_seconds)
        self.clock.tick(event.seconds)
        step_seconds = median(self.seconds)
        speed = self.plan.batch_tokens / step_seconds
        steps_left = self.plan.max_steps - event.step
        seconds_left = steps_left * (step_seconds + self.clock.between_steps)
        self.display.update(event.step, event.loss, event.lr, speed, seconds_left)
        self.latest = Progress(
            step=event.step,
            max_steps=self.plan.max_steps,
            loss=event.loss,
            tokens_per_second=speed,
            step_seconds=step_seconds,
            seconds_left=seconds_left,
        )
        self.progress.write(self.latest)
        due = event.step % self.interval == 0 or event.step == self.plan.max_steps
        if due and event.step > self.recorded["train/loss"]:
            values = {
                "train/loss": event.loss,
                "train/lr": event.lr,
                "train/grad_norm": event.grad_norm,
                "train/skipped_steps": self.skipped,
                "train/tokens": event.step * self.plan.batch_tokens,
                "speed/tokens_per_second": speed,
                "speed/loader_share": sum(self.loader_seconds) / sum(self.seconds),
                **self.hardware.metrics(speed),
            }
            if self.plan.muon_lr_ratio is not None:
                values["train/muon_lr"] = event.lr * self.plan.muon_lr_ratio
            self.tracker.record("metrics", step=event.step, values=values)

    def handle_evaluation(self, event: Evaluated) -> None:
        """Record and print the validation loss, and let the model write a sample."""
        bits = bits_per_byte(event.loss, self.plan.val_tokens, self.plan.val_bytes)
        if event.step > self.recorded["val/loss"]:
            values = {"val/loss": event.loss, "val/bits_per_byte": bits}
            self.tracker.record("metrics", step=event.step, values=values)
        self.display.bits_per_byte = bits
        self.display.log(
            f"step {event.step:>6}  validation loss {event.loss:.4f}, {bits:.4f} bits per byte"
            f"{', the best so far' * event.is_best}"
        )
        text = self.samples.write() if self.samples else None
        if text is not None:
            self.display.log_sample(text)
            self.table.add(event.step, text, bits, event.loss)
            self.tracker.record_table(self.table.file)

    def close(self) -> None:
        """Restore the terminal."""
        self.display.close()


class Clock:
    """The mean time between steps, which goes to evaluations, checkpoints and samples."""

    def __init__(self) -> None:
        self.steps, self.outside = 0, 0.0
        self.ended = time.perf_counter()

    def tick(self, step_seconds: float) -> None:
        """Record the end of a step that took `step_seconds`."""
        now = time.perf_counter()
        if self.steps:  # what precedes the first step happens only once
            self.outside += max(0.0, now - self.ended - step_seconds)
        self.steps, self.ended = self.steps + 1, now

    @property
    def between_steps(self) -> float:
        """Mean seconds between two steps."""
        return self.outside / max(1, self.steps - 1)


def start_lines(plan: Plan, event: Started) -> list[str]:
    """Return the lines that a training run prints at its start."""
    lines = [
        f"train: {plan.n_params:,} parameters, {plan.max_steps:,} steps of "
        f"{plan.batch_tokens:,} tokens"
    ]
    if event.step == plan.max_steps:
        lines.append("already trained; rewriting its model")
    elif event.step:
        lines.append(f"resuming after step {event.step}")
    among = f" on each of {plan.processes} processes" if plan.processes > 1 else ""
    if event.accumulation > 1:
        lines.append(
            f"gradient accumulation: {event.accumulation} micro-batches of "
            f"{event.micro_batch} sequences per step{among}"
        )
    if event.too_large:
        lines.append(f"a micro-batch of {event.too_large} sequences does not fit in memory")
    return lines
