"""A command of the flow: its output is relayed, and no process is left behind."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.runner import run_command
from pipelines.watch import Hang

FAMILY = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleep, start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(60)
"""


class Stop(Exception):
    """The exception that Prefect raises in the flow's thread when a run is canceled."""


def watch_nothing() -> None:
    """Never end the command."""


def test_output_and_exit_code_are_passed_on() -> None:
    lines: list[str] = []
    script = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert run_command([sys.executable, "-c", script], os.environ, lines.append, watch_nothing) == 3
    assert lines == ["out", "err"]


def test_lines_come_while_the_command_runs(tmp_path: Path) -> None:
    """It ends only once its line has arrived."""
    arrived = tmp_path / "arrived"
    script = f"""
import os, time
print("a line", flush=True)
while not os.path.exists({str(arrived)!r}):
    time.sleep(0.1)
"""
    code = run_command(
        [sys.executable, "-c", script], os.environ, lambda _: arrived.touch(), watch_nothing
    )
    assert code == 0


def test_an_exception_ends_the_command_and_its_descendants(tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    pids: list[int] = []

    def say(line: str) -> None:
        pids.append(int(line.split()[1]))
        raise Stop

    with pytest.raises(Stop):
        run_command([sys.executable, str(script)], os.environ, say, watch_nothing)
    assert not psutil.pid_exists(pids[0])


def test_a_watch_can_end_the_command() -> None:
    def watch() -> None:
        raise Stop

    script = "import time; time.sleep(600)"
    started = time.monotonic()
    with pytest.raises(Stop):
        run_command([sys.executable, "-c", script], os.environ, print, watch)
    assert time.monotonic() - started < 300


def test_a_command_that_hangs_is_killed_without_asking() -> None:
    def watch() -> None:
        raise Hang

    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    started = time.monotonic()
    with pytest.raises(Hang):
        run_command([sys.executable, "-c", script], os.environ, print, watch)
    assert time.monotonic() - started < 300
