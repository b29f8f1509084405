import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pyarrow as pa
import pytest

from stages.runtime.errors import Crashed
from stages.runtime.pool import ENVIRONMENT, in_processes, results_in_order
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]


def reporter(word: str) -> Callable[[int], tuple[int, str, int]]:
    """Return a function that returns its number, the word, and the PID it runs in."""

    def report(number: int) -> tuple[int, str, int]:
        time.sleep(0.05 * (number % 2))  # so that later ones finish first
        return number, word, os.getpid()

    return report


def refuser() -> Callable[[int], int]:
    return refused


def killer() -> Callable[[int], int]:
    return killed


def never_ready() -> Callable[[int], int]:
    """Kill the worker while it starts up."""
    os.kill(os.getpid(), signal.SIGKILL)
    return abs


def writer(folder: Path) -> Callable[[int], int]:
    """Return a function that creates a file for each number."""

    def write(number: int) -> int:
        (folder / str(number)).touch()
        return number

    return write


def prepared(folder: Path) -> Callable[[int], int]:
    """Create a file before the worker gets a task."""
    (folder / str(os.getpid())).touch()
    return abs


def refused(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return number


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def memory_reporter() -> Callable[[int], tuple[str, str | None]]:
    """Return a function that returns Arrow's allocator and whether glibc maps large arrays."""
    return lambda _: (pa.default_memory_pool().backend_name, os.environ.get("MALLOC_MMAP_MAX_"))


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_order_from_prepared_workers(workers: int) -> None:
    found = list(in_processes(partial(reporter, "well"), range(9), workers))
    assert [number for number, _, _ in found] == list(range(9))
    assert {word for _, word, _ in found} == {"well"}
    processes = {process for _, _, process in found}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(processes) <= workers


def test_one_task_needs_no_other_process() -> None:
    assert list(in_processes(partial(reporter, ""), [0], 7)) == [(0, "", os.getpid())]
    assert list(in_processes(refuser, [], 7)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_a_worker_is_raised(workers: int) -> None:
    results = in_processes(refuser, range(4), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two is refused"):
        next(results)


def test_no_task_starts_before_a_result_is_requested(tmp_path: Path) -> None:
    results = in_processes(partial(writer, tmp_path), range(3), 2)
    time.sleep(1)
    assert not list(tmp_path.iterdir())
    assert list(results) == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_workers_start_up_before_a_result_is_requested(tmp_path: Path) -> None:
    results = in_processes(partial(prepared, tmp_path), [-1, -2, -3], 2)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, 10, "not started")
    assert list(results) == [1, 2, 3]


def test_workers_keep_freed_memory_and_the_stages_environment_stays() -> None:
    before = dict(os.environ)
    found = list(in_processes(memory_reporter, range(4), 2))
    assert set(found) == {("system", ENVIRONMENT["MALLOC_MMAP_MAX_"])}
    assert dict(os.environ) == before


def test_workers_end_when_the_results_are_dropped(tmp_path: Path) -> None:
    others = set(active_children())
    results = in_processes(partial(prepared, tmp_path), range(3), 2)
    assert len(set(active_children()) - others) == 2
    del results
    wait_for(lambda: set(active_children()) <= others, 10, "workers are left")


@pytest.mark.parametrize("make", [killer, never_ready])
def test_a_killed_worker_is_reported(
    make: Callable[[], Callable[[int], int]],
) -> None:
    with pytest.raises(Crashed, match="NANOGPT_WORKERS"):
        list(in_processes(make, range(99), 9))


def test_the_number_of_submitted_tasks_is_bounded() -> None:
    submitted: list[int] = []

    def submit(number: int) -> Future[int]:
        submitted.append(number)
        done: Future[int] = Future()
        done.set_result(number)
        return done

    for result in results_in_order(submit, range(20), ahead=3):
        assert len(submitted) <= result + 4
    assert submitted == list(range(20))


INTERRUPTED = """
from stages.runtime.pool import in_processes
from tests_of_processes import sleeper

if __name__ == "__main__":
    results = in_processes(sleeper, range(9), 3)
    try:
        print(next(results), flush=True)
        list(results)
    except KeyboardInterrupt:
        results.close()
        print("stopped")
"""


def alive(group: int) -> bool:
    """Return whether any process of a group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def running(workspace: Path) -> "subprocess.Popen[str]":
    """Start a script in its own process group that has received its workers' first result."""
    slept = "import time\n\n\ndef sleep(n):\n    time.sleep(0.3 * n)\n    return n\n"
    maker = "\n\ndef sleeper():\n    return sleep\n"
    (workspace / "tests_of_processes.py").write_text(slept + maker)
    (workspace / "script.py").write_text(INTERRUPTED)
    paths = os.pathsep.join([str(ROOT), str(workspace)])
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def test_only_the_parent_handles_ctrl_c(running: "subprocess.Popen[str]") -> None:
    """The workers print nothing and exit with it."""
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "stopped\n", "")
    wait_for(lambda: not alive(running.pid), 20, "processes are left")


def test_no_worker_outlives_a_killed_parent(running: "subprocess.Popen[str]") -> None:
    running.kill()
    running.communicate(timeout=60)
    wait_for(lambda: not alive(running.pid), 20, "processes are left")
