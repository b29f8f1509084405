"""Work spread over processes of this machine, its results in order."""

import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, forkserver, get_context, resource_tracker
from typing import Any, Generic, TypeVar

from stages.runtime.allocator import KEEP_FREED_MEMORY
from stages.runtime.errors import Crashed
from stages.runtime.supervise import end_with_parent

# What workers are started with: Arrow's arrays come from glibc's memory too.
ENVIRONMENT = {**KEEP_FREED_MEMORY, "ARROW_DEFAULT_MEMORY_POOL": "system"}

T = TypeVar("T")
R = TypeVar("R")

_worker: Callable[[Any], Any]  # of a worker process, made once


def in_processes(
    make: Callable[[], Callable[[T], R]], tasks: Sequence[T], workers: int
) -> Iterator[R]:
    """What the function that `make` makes says to each task, in order.

    By `workers` processes, each of which makes it once, or by this one where one is enough. They
    get ready at once and begin when the first answer is asked for. Raises what the function
    raises, Crashed when one of the processes is killed; the others are ended in the middle of what
    they do.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        return map(make(), tasks)
    start_server((make.func if isinstance(make, partial) else make).__module__)
    return Pool(make, workers).answers(tasks)


def start_server(module: str) -> None:
    """Start what workers are copied from, unless it runs; it imports their module meanwhile.

    A process of its own: copies of this one, which has threads and their locks, may deadlock.
    """
    forkserver.set_forkserver_preload([module])
    with interrupts_waiting(), in_environment(ENVIRONMENT):
        forkserver.ensure_running()


class Pool(Generic[T, R]):
    """Worker processes, which get ready as soon as this is made."""

    def __init__(self, make: Callable[[], Callable[[T], R]], workers: int) -> None:
        self.others = set(active_children())
        self.executor = ProcessPoolExecutor(workers, get_context("forkserver"), begin, (make,))
        self.workers = workers
        with self.ended_by_faults():
            for _ in range(workers):
                self.submit(os.getpid)  # starts a process, as there are fewer than workers

    def submit(self, function: Callable[..., Any], *arguments: T) -> Future[Any]:
        """Let a worker call a function. Raises BrokenProcessPool where none can be started."""
        try:
            with interrupts_waiting():
                return self.executor.submit(function, *arguments)
        except OSError as error:  # as while the executor, finding one dead, closes its pipes
            raise BrokenProcessPool(str(error)) from None

    def answers(self, tasks: Sequence[T]) -> Iterator[R]:
        """What the workers say to each task, in order."""
        try:
            with self.ended_by_faults():
                yield from in_order(partial(self.submit, work), tasks, ahead=2 * self.workers)
        finally:
            self.executor.shutdown(cancel_futures=True)

    @contextmanager
    def ended_by_faults(self) -> Iterator[None]:
        """End the workers when anything is raised. Raises Crashed where one was found dead."""
        try:
            yield
        except BaseException as error:
            # Of a dead one's fellows the executor ends all but those that were just being started,
            # and then waits for these for ever.
            for process in set(active_children()) - self.others:
                process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise Crashed(
                "a worker process was killed (by the system, for memory?); run again, with fewer "
                "NANOGPT_WORKERS if it happens again"
            ) from None


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


@contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started in this context have these variables, but for those that are set."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    """What a worker process does before its first task."""
    gc.freeze()  # as `stages.runtime.entry.main` does
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
