"""Supervision of subprocesses, so that no process is ever left behind.

`run_supervised` runs a command in its own session and ends it, with all its descendants, when this
process is asked to stop or fails. `on_exit` lets a process react when the one that started it is
gone. Together they ensure that whichever process is killed, all others are gone a second later.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType

import psutil

from stages.runtime.errors import Busy

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0  # at most, between two looks for new descendants
GRACE_SECONDS = 60.0  # to finish a step and write a checkpoint
LOCK_SECONDS = 5.0  # the ranks of a killed run need a moment to exit
PR_SET_PDEATHSIG = 1  # of prctl(2)
SUPERVISOR = "TRAINING_SUPERVISOR_PID"


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def on_exit(processes: Sequence[psutil.Process], action: Callable[[], None]) -> None:
    """Call `action` in a thread as soon as one of the processes is gone."""

    def watch() -> None:
        while all(is_alive(process) for process in processes):
            time.sleep(POLL_SECONDS)
        action()

    threading.Thread(target=watch, daemon=True).start()


def supervisors() -> list[psutil.Process]:
    """Return the parent of this process and, if there is one, the supervisor above it."""
    pids = [os.getppid(), *(int(pid) for pid in [os.environ.get(SUPERVISOR)] if pid)]
    return [psutil.Process(pid) for pid in pids]


def dvc_ancestors() -> list[psutil.Process]:
    """Return the DVC process that runs this stage, preceded by any shell in between.

    DVC sets DVC_STAGE for its children, not for itself.
    """
    ancestors = []
    for process in psutil.Process().parents():
        ancestors.append(process)
        if "DVC_STAGE" not in process.environ():
            break
    return ancestors


def die_with_parent() -> None:
    """Have Linux kill this process when its parent is gone, even if it is stuck in native code.

    Such a process may hold Python's lock, so that no thread of its own can watch the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_at_once() -> None:
    """Call `os._exit(1)`: skip cleanup so that nothing can block."""
    os._exit(1)


def exit_with_parent() -> None:
    """Exit this pool worker once the process that created it is gone, even if it already is."""
    parent = parent_process()
    assert parent is not None  # this runs in workers only

    def wait() -> None:
        parent.join()
        exit_at_once()

    threading.Thread(target=wait, daemon=True).start()


def terminate_self() -> None:
    """Send SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def exclusive_lock(lock: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file; yield its descriptor for child processes to inherit.

    Children that inherited the descriptor hold the lock too. Raises Busy, which names the holder,
    if it is not free within LOCK_SECONDS.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = lock.read_text().strip() or "a process that is just starting"
                    raise Busy(
                        f"another training run is active here ({holder}, which holds {lock}); "
                        "wait for it to finish or stop it"
                    ) from None
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}: {own_command_line()}\n")
        file.flush()
        yield file.fileno()


def is_locked(lock: Path) -> bool:
    """Return whether another process holds the lock on a file, which need not exist."""
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def own_command_line() -> str:
    """Return the command line that started this process."""
    return shlex.join(["python", *sys.orig_argv[1:]])


@dataclass(frozen=True)
class Outcome:
    """The exit code of a supervised command, and whether it was asked to stop before its end."""

    code: int
    stop_requested: bool


def run_supervised(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int]
) -> Outcome:
    """Run `command` to its end with stderr redirected to `log`; it inherits some file descriptors.

    SIGTERM and SIGINT are forwarded as SIGTERM; what still runs after GRACE_SECONDS is killed.
    """
    stop_requested = threading.Event()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        stop_requested.set()

    previous_handlers = {
        signum: signal.signal(signum, request_stop) for signum in (signal.SIGTERM, signal.SIGINT)
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            env={**environment, SUPERVISOR: str(os.getpid())},
            stderr=stderr,
            start_new_session=True,
            pass_fds=inherited,
        )
    family = Family(process.pid)
    try:
        while process.poll() is None and not stop_requested.is_set():
            family.watch()
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        if process.poll() is None:
            terminate(process, family)
        return Outcome(process.wait(), stop_requested.is_set())
    finally:
        process.kill()  # harmless if it has exited
        kill_all(family.members)
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)


class Family:
    """The descendants of a process by PID; once seen, they stay, even if their parents exit."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.members: dict[int, psutil.Process] = {}
        self.started = self.looked = time.monotonic()

    def watch(self) -> None:
        """Look for new descendants now and then: often at first, when most of them start.

        Each look reads the state of every process of the machine.
        """
        age = self.looked - self.started
        if time.monotonic() - self.looked >= min(age / 4, LOOK_SECONDS):
            self.look()

    def look(self) -> dict[int, psutil.Process]:
        """Look for new descendants, and return all."""
        self.looked = time.monotonic()
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children(recursive=True)
            self.members.update({child.pid: child for child in found})
        return self.members


def terminate(process: "subprocess.Popen[bytes]", family: Family) -> None:
    """Send SIGTERM to `process` and its descendants; kill `process` after GRACE_SECONDS.

    Descendants that start meanwhile get the signal too: otherwise they would run until the end of
    the grace period.
    """
    deadline, signaled = time.monotonic() + GRACE_SECONDS, set[int]()
    process.terminate()
    while process.poll() is None and time.monotonic() < deadline:
        members = family.look()
        for pid in members.keys() - signaled:
            signal_process(members[pid], signal.SIGTERM)
            signaled.add(pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    process.kill()  # harmless if it has exited


def kill_all(children: dict[int, psutil.Process]) -> None:
    """Kill the processes that are left and wait until they are gone."""
    for child in children.values():
        signal_process(child, signal.SIGKILL)
    psutil.wait_procs(children.values(), timeout=GRACE_SECONDS)


def signal_process(process: psutil.Process, signum: int) -> None:
    """Send a signal to a process that may have exited."""
    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return
