"""What a training shows while it runs: one line that renews itself on a terminal, else plain lines.

Nothing here reads the model or keeps a figure that is recorded elsewhere. There is no thread: the
line is drawn by the updates themselves, REDRAW_SECONDS apart at the least, and so costs as little
at a hundred updates a second as at one.
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
COLUMNS = 24  # of the curve at the most
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
SMOOTHING = 0.9  # of the shown loss: the share that the updates before the newest have in it
SAMPLE_COLUMNS, SAMPLE_LINES = 88, 8


class LossCurve:
    """All losses so far as at most COLUMNS means, each over equally many updates."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self.span, self.total, self.count = 1, 0.0, 0  # updates per mean; of the one to come

    def add(self, loss: float) -> None:
        """Take in one update's loss; one that is no finite number has no place in a curve."""
        if not math.isfinite(loss):
            return
        self.total, self.count = self.total + loss, self.count + 1
        if self.count < self.span:
            return
        self.means.append(self.total / self.span)
        self.total, self.count = 0.0, 0
        if len(self.means) > COLUMNS:  # an odd number of means: the last starts the next pair
            self.total, self.count = self.means.pop() * self.span, self.span
            self.means, self.span = halved(self.means), 2 * self.span

    def draw(self, columns: int, blocks: str) -> str:
        """The curve from the first update to the newest, in at most so many columns.

        Its height is that of the newer three quarters: the fall of the first updates is cut off,
        next to which all that comes after would look flat.
        """
        means = self.means
        while len(means) > max(columns, 0):
            means = halved(means) if columns > 0 else []
        if not means:
            return ""
        low, high = min(means), max(means[len(means) // 4 :])
        scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
        return "".join(blocks[min(len(blocks) - 1, round((m - low) * scale))] for m in means)


def halved(means: list[float]) -> list[float]:
    """Means of two neighbours each; the last of an odd number stays as it is."""
    pairs = [means[i : i + 2] for i in range(0, len(means), 2)]
    return [sum(pair) / len(pair) for pair in pairs]


class Smoothed:
    """An exponential mean of the losses, corrected for its beginning (Kingma and Ba 2015)."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, loss: float) -> None:
        """Take in one update's loss, unless it is no finite number."""
        if math.isfinite(loss):
            self.total = SMOOTHING * self.total + (1 - SMOOTHING) * loss
            self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)

    @property
    def value(self) -> float:
        """The mean, in nats; no number before the first loss."""
        return self.total / self.weight if self.weight else math.nan


def printable(text: str, encoding: str) -> str:
    """The text with `?` for what an encoding lacks: a character must not end a training."""
    return text.encode(encoding, "replace").decode(encoding)


def sample_lines(text: str) -> list[str]:
    """The beginning of what a model wrote, as lines to print; control characters become `·`."""
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.expandtabs(4))
    wrapped = [
        part
        for line in shown.rstrip().lstrip("\n").split("\n")
        for part in textwrap.wrap(line, SAMPLE_COLUMNS, replace_whitespace=False) or [""]
    ]
    return [f"    | {line}".rstrip() for line in wrapped[:SAMPLE_LINES]]


def duration(seconds: float) -> str:
    """Time as 12:34, 1:23:45 or with days."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


class Display:
    """The terminal, or the file that replaces one, of one training."""

    def __init__(self, *, max_steps: int, interval: int) -> None:
        self.max_steps, self.interval = max_steps, interval
        self.console = Console(markup=False, highlight=False, emoji=False)
        self.encoding = sys.stdout.encoding or "utf-8"
        self.blocks = BLOCKS if printable(BLOCKS, self.encoding) == BLOCKS else ASCII_BLOCKS
        self.curve, self.smoothed = LossCurve(), Smoothed()
        self.step, self.speed, self.left = 0, 0.0, 0.0
        self.bits_per_byte: float | None = None
        self.drawn = -math.inf  # when the line was drawn last
        self.live: Live | None = None
        if sys.stdout.isatty() and not self.console.is_dumb_terminal:
            self.live = Live(
                console=self.console,
                get_renderable=self.line,
                auto_refresh=False,
                transient=True,
                redirect_stderr=False,  # it goes into the log of the launcher
            )

    def start(self, past_losses: list[float]) -> None:
        """Begin the line, with the curve of what was trained before, unless nothing is to come."""
        for loss in past_losses:
            self.curve.add(loss)
            self.smoothed.add(loss)
        self.step = len(past_losses)
        if self.live and self.step < self.max_steps:
            self.live.start()

    def update(self, step: int, loss: float, lr: float, speed: float, left: float) -> None:
        """Take in one update: its loss in nats, tokens per second, seconds left."""
        self.curve.add(loss)
        self.smoothed.add(loss)
        self.step, self.speed, self.left = step, speed, left
        if self.live:
            self.redraw()
        elif step % self.interval == 0 or step == self.max_steps:
            self.say(
                f"step {step:>6} of {self.max_steps:,}  loss {self.smoothed.value:.4f}  "
                f"learning rate {lr:.2e}  {speed:,.0f} tokens per second  {duration(left)} left"
            )

    def redraw(self) -> None:
        """Draw the line, unless that was done just now."""
        now = time.monotonic()
        if self.live and now - self.drawn >= REDRAW_SECONDS:
            self.live.refresh()
            self.drawn = now

    def line(self) -> Text:
        """How far the training is; the curve takes what room the figures leave."""
        before, after = f"step {self.step:,}/{self.max_steps:,}  ", ""
        if self.smoothed.weight:
            after += f"  loss {self.smoothed.value:.3f}"
        if self.bits_per_byte is not None:
            after += f"  val {self.bits_per_byte:.3f} bits/byte"
        if self.speed:
            after += f"  {self.speed:,.0f} tok/s  {duration(self.left)} left"
        room = self.console.width - 1 - cell_len(before + after)
        curve = self.curve.draw(min(room, COLUMNS), self.blocks)
        parts = (before, "bold"), (curve, "cyan"), after
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis", end="")

    def say(self, line: str) -> None:
        """Print a line, above the live one if there is one."""
        line = printable(line, self.encoding)
        if self.live:
            self.console.print(Text(line), soft_wrap=True)
        else:
            print(line, flush=True)

    def say_sample(self, text: str) -> None:
        """Show a text that the model wrote, set apart from what is said about it."""
        self.say("\n".join(sample_lines(text)))

    def close(self) -> None:
        """Take the line away."""
        if self.live:
            self.live.stop()
