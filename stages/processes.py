"""Work spread over processes of this machine, its results in order."""

import gc
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, forkserver, get_context, resource_tracker
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

    By `workers` processes, each of which makes it once, or by this one where one is enough. They
    are made ready at once and begin when the first answer is asked for. Raises what the function
    raises, Crashed when one of the processes is killed; the others are ended in the middle of what
    they do.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        return map(make(), tasks)
    start_server(make)
    return answers(make, tasks, workers)


def start_server(make: Callable[[], Any]) -> None:
    """Start what workers are copied from, which imports what `make` needs meanwhile.

    A process of its own: copies of this one, which has threads and their locks, may deadlock.
    """
    made_in = make.func if isinstance(make, partial) else make
    forkserver.set_forkserver_preload([made_in.__module__])
    with interrupts_waiting():
        forkserver.ensure_running()


def answers(make: Callable[[], Callable[[T], R]], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """What workers say to each task, in order."""
    pool = ProcessPoolExecutor(workers, get_context("forkserver"), begin, (make,))
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
    resource_tracker.ensure_running()  # which, starting later, would end the waiting
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    """What a worker process does before its first task."""
    gc.freeze()  # as `stages.command.main` does
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
