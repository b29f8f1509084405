"""Work spread over processes of this machine, its results in order."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

from stages.command import Crashed
from stages.supervise import end_with_parent

T = TypeVar("T")
R = TypeVar("R")

_worker: Callable[[Any], Any]  # of a worker process, made once


def in_processes(
    make: Callable[[], Callable[[T], R]], tasks: Sequence[T], workers: int
) -> Iterator[R]:
    """What the function that `make` makes says to each task, in order.

    By `workers` processes, each of which makes it once, or by this one where one is enough. Raises
    what the function raises, Crashed when one of the processes is killed; the others are ended in
    the middle of what they do.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(make(), tasks)
        return
    context = get_context("spawn")  # forking a process with threads may deadlock
    pool = ProcessPoolExecutor(workers, context, begin, (make,))
    others = active_children()

    def submit(task: T) -> Future[R]:
        with interrupts_waiting():
            return pool.submit(work, task)  # starts a process while there are fewer than workers

    try:
        yield from in_order(submit, tasks, ahead=2 * workers)
    except BrokenProcessPool:
        raise Crashed(
            "a worker process was killed (by the system, for memory?); run again, with fewer "
            "NANOGPT_WORKERS if it happens again"
        ) from None
    except BaseException:
        for process in set(active_children()) - set(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def interrupts_waiting() -> Iterator[None]:
    """Ctrl-C waits until the end of this context, and in processes started in it for ever.

    A terminal sends it to all; it is for the parent, which ends its workers.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    """What a worker process does before its first task."""
    end_with_parent()
    global _worker
    _worker = make()


def work(task: Any) -> Any:
    """What a worker process does with a task."""
    return _worker(task)


def in_order(submit: Callable[[T], Future[R]], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """The results of the tasks; at most `ahead` others are submitted while one is waited for."""
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
