"""The output of a training: on a real terminal, in a file, and in a limited encoding."""

import fcntl
import io
import math
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.tracking.display import (
    ASCII_BLOCKS,
    BLOCKS,
    COLUMNS,
    Display,
    LossCurve,
    SmoothedLoss,
    duration,
    sample_lines,
)

ROOT = Path(__file__).parents[3]

TRAINING = """
import time
from stages.tracking.display import Display
display = Display(max_steps=400, interval=10)
display.start([])
for step in range(1, 401):
    if step == 200:
        time.sleep(0.3)
    display.update(step, 8 - step / 100, 0.01, 12345.0, 400 - step)
    if step == 200:
        display.bits_per_byte = 2.5
        display.log("an evaluation")
        display.log_sample("To be\\x1b[31m")
time.sleep(0.3)
display.redraw()
display.close()
print("the end")
"""


def on_terminal(script: str, columns: int, **variables: str) -> str:
    """Run a script on a terminal of that width; return what it writes."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=follower, env=environment)
    os.close(follower)
    written = b""
    try:
        while part := os.read(leader, 1 << 16):
            written += part
    except OSError:  # how a terminal reports its end
        pass
    os.close(leader)
    assert process.wait() == 0
    return written.decode()


def test_on_a_terminal_one_line_is_redrawn() -> None:
    written = on_terminal(TRAINING, columns=120)
    assert "step 400/400" in written
    assert "loss 4." in written
    assert "val 2.500 bits/byte  12,345 tok/s  00:00 left" in written
    assert any(block in written for block in BLOCKS)
    assert written.count("\x1b[2K") >= 3  # the line is taken back
    lines = written.split("\r\n")
    assert sum("step" in line for line in lines) <= 4  # and not one line for each update
    assert "\x1b[?25h" in written  # the cursor is back
    assert lines[-2].endswith("the end")


def test_a_terminal_of_80_columns_has_room_for_everything() -> None:
    long = TRAINING.replace("400", "1_000")
    written = on_terminal(long, columns=80)
    assert "val 2.500 bits/byte  12,345 tok/s  10:00 left" in written
    assert any(block in written for block in BLOCKS)
    assert "…" not in written


def test_the_line_is_rarely_redrawn_however_fast_the_steps() -> None:
    fast = TRAINING.replace("time.sleep(0.3)", "pass")
    assert on_terminal(fast, columns=120).count("tok/s") <= 40  # of 400 updates


def test_lines_are_printed_above_the_progress_line_and_cannot_control_the_terminal() -> None:
    written = on_terminal(TRAINING, columns=120)
    assert "an evaluation\r\n" in written
    assert "    | To be·[31m\r\n" in written


def test_a_narrow_terminal_shows_figures_before_the_curve() -> None:
    written = on_terminal(TRAINING, columns=60)
    assert "step 400/400" in written
    shown = [part for part in written.replace("\r", "\n").split("\n") if "step 400" in part]
    assert not any(block in shown[-1] for block in BLOCKS)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    written = on_terminal(TRAINING, columns=120, TERM="dumb")
    assert "\x1b" not in written
    assert written.count("learning rate") == 40


def test_a_terminal_without_block_characters_gets_an_ascii_curve() -> None:
    written = on_terminal(TRAINING, columns=120, PYTHONIOENCODING="ascii")
    assert "step 400/400" in written
    assert written.isascii()
    assert "?" not in written.replace("[?25", "").replace("To be?[31m", "")
    assert ASCII_BLOCKS[-1] * 2 in written


def test_a_file_gets_a_line_every_interval(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(max_steps=5, interval=2)
    display.start([])
    for step in range(1, 6):
        display.update(step, 3.0, 0.015, 12345.6, 61.0 * (5 - step))
    display.close()
    assert capsys.readouterr().out.splitlines() == [
        f"step      {step} of 5  loss 3.0000  learning rate 1.50e-02  "
        f"12,346 tokens per second  {left} left"
        for step, left in ((2, "03:03"), (4, "01:01"), (5, "00:00"))
    ]


def test_a_character_that_cannot_be_encoded_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    display = Display(max_steps=5, interval=2)
    display.log_sample("naïve")
    output.flush()
    assert output.buffer.getvalue() == b"    | na?ve\n"


def test_a_curve_keeps_the_means_of_all_losses_in_few_numbers() -> None:
    curve = LossCurve()
    losses = [math.sin(i) for i in range(24 * 128)]
    for loss in losses:
        curve.add(loss)
    assert COLUMNS // 2 <= len(curve.means) <= COLUMNS
    n = len(curve.means) * curve.span
    assert sum(curve.means) / len(curve.means) == pytest.approx(sum(losses[:n]) / n)
    assert n > len(losses) - curve.span


@pytest.mark.parametrize("updates", [1, 2, 24, 25, 30, 49, 1000])
@pytest.mark.parametrize("columns", [0, 1, 5, 24])
def test_a_falling_loss_is_drawn_falling(updates: int, columns: int) -> None:
    curve = LossCurve()
    for i in range(updates):
        curve.add(10 - 5 * i / updates)
    drawn = [BLOCKS.index(block) for block in curve.draw(columns, BLOCKS)]
    assert len(drawn) <= columns
    assert bool(drawn) == (columns > 0)
    assert drawn == sorted(drawn, reverse=True)
    if len(drawn) > 4:
        assert (drawn[0], drawn[-1]) == (7, 0)


def test_a_loss_that_is_not_finite_is_not_shown() -> None:
    curve, smoothed = LossCurve(), SmoothedLoss()
    for loss in (2.0, math.nan, math.inf, 2.0):
        curve.add(loss)
        smoothed.add(loss)
    assert curve.means == [2.0, 2.0]
    assert smoothed.value == pytest.approx(2.0)


def test_the_smoothed_loss_starts_at_the_first_loss_and_follows_slowly() -> None:
    smoothed = SmoothedLoss()
    smoothed.add(8.0)
    assert smoothed.value == pytest.approx(8.0)
    smoothed.add(4.0)
    assert smoothed.value == pytest.approx((0.9 * 8 + 4) / 1.9)


def test_a_sample_is_shown_in_few_lines_of_printable_characters() -> None:
    assert sample_lines("\nACT I.\n\n\tEnter\x07 a King\n ") == [
        "    | ACT I.",
        "    |",
        "    |     Enter· a King",
    ]
    assert max(map(len, sample_lines("word " * 100))) <= 96
    assert len(sample_lines("a\n" * 100)) == 8


def test_times_are_shown_in_minutes_hours_and_days() -> None:
    shown: Callable[..., list[str]] = lambda *seconds: [duration(s) for s in seconds]  # noqa: E731
    assert shown(0, 65.4, 3600, 90_000) == ["00:00", "01:05", "1:00:00", "1 day, 1:00:00"]
