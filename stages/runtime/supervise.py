"""Commands run so that nothing of them is ever left behind.

`run_supervised` gives a command a session of its own and ends it, with every process below it, when
this process is asked to stop or fails. `on_exit` lets a process notice that the one which started
it is gone. Together: whatever is killed, a second later nothing is left.
"""

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
GRACE_SECONDS = 60.0  # to finish a step and write a checkpoint
LOCK_SECONDS = 5.0  # ranks of a killed training need a moment to notice
SUPERVISOR = "TRAINING_SUPERVISOR_PID"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that is dead but not yet collected does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def on_exit(processes: Sequence[psutil.Process], act: Callable[[], None]) -> None:
    """Call `act` in a thread once one of the processes is gone."""

    def watch() -> None:
        while all(is_alive(process) for process in processes):
            time.sleep(POLL_SECONDS)
        act()

    threading.Thread(target=watch, daemon=True).start()


def supervisors() -> list[psutil.Process]:
    """The parent of this process, and the supervisor above it if there is one."""
    pids = [os.getppid(), *(int(pid) for pid in [os.environ.get(SUPERVISOR)] if pid)]
    return [psutil.Process(pid) for pid in pids]


def dvc_ancestors() -> list[psutil.Process]:
    """The DVC process that runs this stage, and a shell where there is one in between.

    DVC sets DVC_STAGE for what it starts, not for itself.
    """
    found = []
    for process in psutil.Process().parents():
        found.append(process)
        if "DVC_STAGE" not in process.environ():
            break
    return found


def exit_at_once() -> None:
    """End this process without any farewell."""
    os._exit(1)


def end_with_parent() -> None:
    """End this worker of a pool when the process that made it is gone, even if it is already."""
    parent = parent_process()
    assert parent is not None  # this runs in workers alone

    def wait() -> None:
        parent.join()
        exit_at_once()

    threading.Thread(target=wait, daemon=True).start()


def ask_to_stop() -> None:
    """Send this process the signal that asks it to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def exclusive(lock: Path) -> Iterator[int]:
    """Hold a lock, refused while another process, or a child it left behind, holds it.

    Yields the file descriptor for children to inherit. Raises Busy, which names the holder.
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
                        f"another training is running here ({holder}, which holds {lock}); "
                        "wait for it to end, or stop it"
                    ) from None
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}: {own_command()}\n")
        file.flush()
        yield file.fileno()


def own_command() -> str:
    """Return the command line that started this process."""
    return shlex.join(["python", *sys.orig_argv[1:]])


@dataclass(frozen=True)
class Outcome:
    """How a supervised command ended; `asked` when it had to stop before its end."""

    code: int
    asked: bool


def run_supervised(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int]
) -> Outcome:
    """Run `command` to its end, its stderr into `log`; it inherits some file descriptors.

    SIGTERM and SIGINT are passed on as SIGTERM; what is still there after GRACE_SECONDS is killed.
    """
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
        while process.poll() is None and not asked.is_set():
            family.update(descendants(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        if process.poll() is None:
            terminate(process, family)
        return Outcome(process.wait(), asked.is_set())
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


def terminate(process: "subprocess.Popen[bytes]", family: dict[int, psutil.Process]) -> None:
    """Ask every process below to stop, not the one that manages them, and give them time.

    Those too that it had not started yet: otherwise they would run until their time is over.
    """
    deadline, asked = time.monotonic() + GRACE_SECONDS, set[int]()
    while process.poll() is None and time.monotonic() < deadline:
        family.update(descendants(process.pid))
        for pid in family.keys() - asked:
            signal_process(family[pid], signal.SIGTERM)
            asked.add(pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    process.kill()  # no harm to one that is gone


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
