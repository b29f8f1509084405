"""A command run so that nothing of it is ever left behind.

The command gets a session of its own and is stopped, with every process below it, when this process
is told to stop, when it fails, or when its own parent dies. Should this process itself be killed
outright, the ranks below it notice (`exit_when_orphaned`) and end within a second.
"""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0  # to finish a step and write a checkpoint
LOCK_SECONDS = 5.0  # ranks of a killed training need a moment to notice
SUPERVISOR = "TRAINING_SUPERVISOR_PID"


@contextmanager
def exclusive(lock: Path) -> Iterator[int]:
    """Hold a lock, refused while another process, or a child it left behind, holds it.

    Yields the file descriptor for children to inherit. Raises ValueError when refused.
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
                    raise ValueError(
                        f"another training is running here (it holds {lock}); "
                        "wait for it to end, or stop it"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def run_supervised(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int]
) -> int:
    """Run `command` to its end, its stderr into `log`, with some file descriptors; its exit code.

    SIGTERM, SIGINT and the death of the parent process are passed on as SIGTERM; what is still
    there after GRACE_SECONDS is killed.
    """
    parent = os.getppid()
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        asked.set()

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            env={**environment, SUPERVISOR: str(os.getpid())},
            stderr=stderr,
            start_new_session=True,
            pass_fds=inherited,
        )
    family: dict[int, psutil.Process] = {}
    try:
        while process.poll() is None and not asked.is_set() and os.getppid() == parent:
            family.update(descendants(process.pid))
            asked.wait(POLL_SECONDS)
        if process.poll() is None:
            stop_gently(process, family)
        return process.wait()
    finally:
        end_all(family)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def descendants(pid: int) -> dict[int, psutil.Process]:
    """All living processes below `pid`."""
    try:
        return {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return {}


def stop_gently(process: "subprocess.Popen[bytes]", family: dict[int, psutil.Process]) -> None:
    """Ask every process below to stop, not the one that manages them, and give them time."""
    family.update(descendants(process.pid))
    for child in family.values():
        signal_process(child, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def end_all(family: dict[int, psutil.Process]) -> None:
    """Kill whatever is left and wait until it is gone."""
    for child in family.values():
        signal_process(child, signal.SIGKILL)
    psutil.wait_procs(family.values(), timeout=GRACE_SECONDS)


def signal_process(process: psutil.Process, signum: int) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return


def exit_when_orphaned() -> None:
    """In a rank: end this process at once when its parent or the supervisor dies."""
    parent, supervisor = os.getppid(), int(os.environ.get(SUPERVISOR, "0"))

    def watch() -> None:
        while os.getppid() == parent and (not supervisor or psutil.pid_exists(supervisor)):
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
