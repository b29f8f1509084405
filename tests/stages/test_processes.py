import os
import signal
import time
from concurrent.futures import Future

import pytest

from stages.command import Crashed
from stages.processes import in_order, in_processes

_prepared: str = "not"


def prepare(word: str) -> None:
    global _prepared
    _prepared = word


def told(number: int) -> tuple[int, str, int]:
    time.sleep(0.05 * (number % 2))  # so that later ones are done first
    return number, _prepared, os.getpid()


def refused(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return number


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_order_from_prepared_processes(workers: int) -> None:
    found = list(in_processes(told, range(9), workers, prepare=prepare, about=("well",)))
    assert [number for number, _, _ in found] == list(range(9))
    assert {word for _, word, _ in found} == {"well"}
    processes = {process for _, _, process in found}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(processes) <= workers


def test_one_task_needs_no_other_process() -> None:
    assert list(in_processes(os.getsid, [0], 7)) == [os.getsid(0)]
    assert list(in_processes(refused, [], 7)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_work_raises_is_raised(workers: int) -> None:
    results = in_processes(refused, range(4), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two is refused"):
        next(results)


def test_a_killed_process_is_told() -> None:
    with pytest.raises(Crashed, match="NANOGPT_WORKERS"):
        list(in_processes(killed, range(4), 2))


def test_no_more_than_so_many_tasks_are_under_way() -> None:
    submitted: list[int] = []

    def submit(number: int) -> Future[int]:
        submitted.append(number)
        done: Future[int] = Future()
        done.set_result(number)
        return done

    for result in in_order(submit, range(20), ahead=3):
        assert len(submitted) <= result + 4
    assert submitted == list(range(20))
