"""Terminal output of a training run: a live progress line on a terminal, plain lines elsewhere.

Nothing here reads the model or records a metric. There is no thread: the training steps redraw the
line themselves, at most once every REDRAW_SECONDS, so it costs no more at a hundred steps per
second than at one.
"""

import math
import sys
import textwrap
import time
from datetime import timedelta

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

REDRAW_SECONDS = 0.25
COLUMNS = 24  # maximum width of the curve
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
SMOOTHING = 0.9  # decay of the exponential mean that is shown as the loss
SAMPLE_COLUMNS, SAMPLE_LINES = 88, 8


class LossCurve:
    """The losses so far, as at most COLUMNS means over equally many steps each."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self.span = 1  # steps per mean
        self.total, self.count = 0.0, 0  # of the next mean

    def add(self, loss: float) -> None:
        """Add the loss of one step; ignore it unless it is finite."""
        if not math.isfinite(loss):
            return
        self.total, self.count = self.total + loss, self.count + 1
        if self.count < self.span:
            return
        self.means.append(self.total / self.span)
        self.total, self.count = 0.0, 0
        if len(self.means) > COLUMNS:  # an odd number: the last one starts a new pair
            self.total, self.count = self.means.pop() * self.span, self.span
            self.means, self.span = merge_pairs(self.means), 2 * self.span

    def draw(self, columns: int, blocks: str) -> str:
        """Return the curve from the first step to the newest, in at most `columns` characters.

        The vertical scale is that of the newer three quarters: the steep fall at the start is
        clipped, since everything after it would look flat.
        """
        means = self.means
        while len(means) > max(columns, 0):
            means = merge_pairs(means) if columns > 0 else []
        if not means:
            return ""
        low, high = min(means), max(means[len(means) // 4 :])
        scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
        return "".join(blocks[min(len(blocks) - 1, round((m - low) * scale))] for m in means)


def merge_pairs(means: list[float]) -> list[float]:
    """Return the means of neighboring pairs; the last of an odd number stays as it is."""
    pairs = [means[i : i + 2] for i in range(0, len(means), 2)]
    return [sum(pair) / len(pair) for pair in pairs]


class SmoothedLoss:
    """A bias-corrected exponential mean of the losses (Kingma and Ba 2015)."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, loss: float) -> None:
        """Add the loss of one step, if it is finite."""
        if math.isfinite(loss):
            self.total = SMOOTHING * self.total + (1 - SMOOTHING) * loss
            self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)

    @property
    def value(self) -> float:
        """The mean in nats; NaN before the first loss."""
        return self.total / self.weight if self.weight else math.nan


def printable(text: str, encoding: str) -> str:
    """Replace what an encoding lacks by `?`: no character may end a run."""
    return text.encode(encoding, "replace").decode(encoding)


def sample_lines(text: str) -> list[str]:
    """Return the first lines of a sample to print; control characters become `·`."""
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.expandtabs(4))
    wrapped = [
        part
        for line in shown.rstrip().lstrip("\n").split("\n")
        for part in textwrap.wrap(line, SAMPLE_COLUMNS, replace_whitespace=False) or [""]
    ]
    return [f"    | {line}".rstrip() for line in wrapped[:SAMPLE_LINES]]


def duration(seconds: float) -> str:
    """Format a time as 12:34, 1:23:45 or with days."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


class Display:
    """The output of one training run, on a terminal or in a file."""

    def __init__(self, *, max_steps: int, interval: int) -> None:
        self.max_steps, self.interval = max_steps, interval
        self.console = Console(markup=False, highlight=False, emoji=False)
        self.encoding = sys.stdout.encoding or "utf-8"
        self.blocks = BLOCKS if printable(BLOCKS, self.encoding) == BLOCKS else ASCII_BLOCKS
        self.curve, self.smoothed = LossCurve(), SmoothedLoss()
        self.step, self.speed, self.seconds_left = 0, 0.0, 0.0
        self.bits_per_byte: float | None = None
        self.last_redraw = -math.inf
        self.live: Live | None = None
        if sys.stdout.isatty() and not self.console.is_dumb_terminal:
            self.live = Live(
                console=self.console,
                get_renderable=self.line,
                auto_refresh=False,
                transient=True,
                redirect_stderr=False,  # the launcher has redirected it to its log
            )

    def start(self, past_losses: list[float]) -> None:
        """Start the line with the curve of an earlier session, unless no step is left."""
        for loss in past_losses:
            self.curve.add(loss)
            self.smoothed.add(loss)
        self.step = len(past_losses)
        if self.live and self.step < self.max_steps:
            self.live.start()

    def update(self, step: int, loss: float, lr: float, speed: float, seconds_left: float) -> None:
        """Show one step: its loss in nats per token, and the speed in tokens per second."""
        self.curve.add(loss)
        self.smoothed.add(loss)
        self.step, self.speed, self.seconds_left = step, speed, seconds_left
        if self.live:
            self.redraw()
        elif step % self.interval == 0 or step == self.max_steps:
            self.log(
                f"step {step:>6} of {self.max_steps:,}  loss {self.smoothed.value:.4f}  "
                f"learning rate {lr:.2e}  {speed:,.0f} tokens per second  "
                f"{duration(seconds_left)} left"
            )

    def redraw(self) -> None:
        """Redraw the line, unless the last time was less than REDRAW_SECONDS ago."""
        now = time.monotonic()
        if self.live and now - self.last_redraw >= REDRAW_SECONDS:
            self.live.refresh()
            self.last_redraw = now

    def line(self) -> Text:
        """Return the progress line; the curve gets the width that the metrics leave."""
        before, after = f"step {self.step:,}/{self.max_steps:,}  ", ""
        if self.smoothed.weight:
            after += f"  loss {self.smoothed.value:.3f}"
        if self.bits_per_byte is not None:
            after += f"  val {self.bits_per_byte:.3f} bits/byte"
        if self.speed:
            after += f"  {self.speed:,.0f} tok/s  {duration(self.seconds_left)} left"
        room = self.console.width - 1 - cell_len(before + after)
        curve = self.curve.draw(min(room, COLUMNS), self.blocks)
        parts = (before, "bold"), (curve, "cyan"), after
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis", end="")

    def log(self, line: str) -> None:
        """Print a line, above the progress line if there is one."""
        line = printable(line, self.encoding)
        if self.live:
            self.console.print(Text(line), soft_wrap=True)
        else:
            print(line, flush=True)

    def log_sample(self, text: str) -> None:
        """Print a sample of the model, indented to set it apart."""
        self.log("\n".join(sample_lines(text)))

    def close(self) -> None:
        """Remove the progress line."""
        if self.live:
            self.live.stop()
