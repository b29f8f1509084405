"""A keeper for one background service: it restarts a service that dies and leaves nothing behind.

`python -m pipelines.keep COMMAND …` runs a command until SIGTERM. Every process of the service is
recognized by the variable in its environment that MARKER names, also where it is a session of its
own or has lost its parent, as flow runs have whose worker was killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

from stages.runtime.supervise import is_alive, signal_process

MARKER = "PIPELINE_SERVICE"  # FOLDER:NAME, inherited by all that a service starts
FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # set by Prefect for the process of a flow run and its children
FLOW_SECONDS = 75.0  # for flow runs to write a checkpoint: more than the stages' own grace period
STOP_SECONDS = 8.0  # for a service with nothing left to do
FIRST_SECONDS = 10.0  # a service that exits earlier is misconfigured and not restarted
LONGEST_PAUSE = 60.0
POLL_SECONDS = 0.3


def variable_of(process: psutil.Process, name: str) -> str:
    """Return a variable of a process's environment; empty if it has none, or is not ours."""
    try:
        return process.environ().get(name, "")
    except (psutil.Error, OSError):
        return ""


def members(mark: str) -> list[psutil.Process]:
    """Return the living processes with this mark, except the current one."""
    marked = [p for p in psutil.process_iter() if variable_of(p, MARKER) == mark]
    return [p for p in marked if p.pid != os.getpid() and is_alive(p)]


def flow_run_processes(processes: Sequence[psutil.Process]) -> dict[psutil.Process, str]:
    """Return the topmost process of each flow run among `processes`, and the flow run's id."""
    runs = {p: run for p in processes if (run := variable_of(p, FLOW_RUN))}
    pids = {p.pid for p in runs}
    top = {}
    for process, run in runs.items():
        with suppress(psutil.NoSuchProcess):
            if process.ppid() not in pids:
                top[process] = run
    return top


def end_flow_runs(mark: str) -> set[str]:
    """Ask the flow runs of a service to write a checkpoint, wait for their end, return their ids.

    Meanwhile the worker is suspended (SIGSTOP): otherwise it would restart what has just ended.
    """
    processes = members(mark)
    runs = flow_run_processes(processes)
    if not runs:
        return set()
    for process in set(processes) - {p for p in processes if variable_of(p, FLOW_RUN)}:
        signal_process(process, signal.SIGSTOP)
    for process in runs:
        signal_process(process, signal.SIGTERM)
    deadline = time.monotonic() + FLOW_SECONDS
    while time.monotonic() < deadline and any(variable_of(p, FLOW_RUN) for p in members(mark)):
        time.sleep(POLL_SECONDS)
    return set(runs.values())


def end_members(mark: str) -> None:
    """Send SIGTERM to the processes of a service; kill what is left after STOP_SECONDS.

    A worker whose server is gone does not react to SIGTERM in time.
    """
    left = members(mark)
    for process in left:
        signal_process(process, signal.SIGTERM)
        signal_process(process, signal.SIGCONT)
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    while left := members(mark):  # with those that started meanwhile
        for process in left:
            signal_process(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=STOP_SECONDS)


def keep(command: Sequence[str], mark: str) -> int:
    """Run `command` until SIGTERM, and again whenever it dies; return the exit code.

    It is not run again if it exits within FIRST_SECONDS of the first start, unless it was killed.
    """
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: stop.set())
    # A worker ends at SIGTERM by sending itself SIGINT, which it must not inherit as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pause, first = 1.0, True
    while True:
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        while process.poll() is None and not stop.is_set():
            stop.wait(POLL_SECONDS)
        lived = time.monotonic() - started
        if not stop.is_set():
            print(f"ended with {process.returncode} after {lived:.0f} s", flush=True)
        end_flow_runs(mark)
        end_members(mark)
        if stop.is_set():
            return 0
        was_killed = process.returncode < 0
        if first and lived < FIRST_SECONDS and not was_killed:
            return process.returncode or 1
        pause, first = (1.0 if lived > LONGEST_PAUSE else pause), False
        if stop.wait(pause):
            return 0
        pause = min(2 * pause, LONGEST_PAUSE)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:], os.environ[MARKER]))
