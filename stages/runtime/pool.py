"""A pool of worker processes on this machine that yields its results in order."""

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
from stages.runtime.supervise import exit_with_parent

# Workers get these variables: Arrow too allocates its arrays with glibc.
ENVIRONMENT = {**KEEP_FREED_MEMORY, "ARROW_DEFAULT_MEMORY_POOL": "system"}

T = TypeVar("T")
R = TypeVar("R")

_worker: Callable[[Any], Any]  # in a worker process, created once


def in_processes(
    make: Callable[[], Callable[[T], R]], tasks: Sequence[T], workers: int
) -> Iterator[R]:
    """Apply the function that `make` returns to each task; yield the results in order.

    Each of `workers` processes calls `make` once; where one worker is enough, this process does the
    work itself. Workers start up at once and take their first task when the first result is
    requested. Raises what the function raises, Crashed if a worker is killed; in both cases the
    other workers are terminated in the middle of their tasks.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        return map(make(), tasks)
    start_server((make.func if isinstance(make, partial) else make).__module__)
    return Pool(make, workers).results(tasks)


def start_server(module: str) -> None:
    """Start the fork server, unless it runs; it imports `module` in the background.

    Workers are forked from it, not from this process: that has threads, whose locks could deadlock
    in a fork.
    """
    forkserver.set_forkserver_preload([module])
    with sigint_blocked(), environment_defaults(ENVIRONMENT):
        forkserver.ensure_running()


class Pool(Generic[T, R]):
    """Worker processes, which start up as soon as the pool is created."""

    def __init__(self, make: Callable[[], Callable[[T], R]], workers: int) -> None:
        self.existing = set(active_children())
        self.executor = ProcessPoolExecutor(
            workers, get_context("forkserver"), initialize_worker, (make,)
        )
        self.workers = workers
        with self.terminated_on_error():
            for _ in range(workers):
                self.submit(os.getpid)  # starts a process as long as there are fewer than `workers`

    def submit(self, function: Callable[..., Any], *arguments: T) -> Future[Any]:
        """Call a function in a worker. Raises BrokenProcessPool if no worker can be started."""
        try:
            with sigint_blocked():
                return self.executor.submit(function, *arguments)
        except OSError as error:  # the executor has found a dead worker and is closing its pipes
            raise BrokenProcessPool(str(error)) from None

    def results(self, tasks: Sequence[T]) -> Iterator[R]:
        """Yield the result of each task, in order; shut the workers down at the end."""
        try:
            with self.terminated_on_error():
                submit = partial(self.submit, run_task)
                yield from results_in_order(submit, tasks, ahead=2 * self.workers)
        finally:
            self.executor.shutdown(cancel_futures=True)

    @contextmanager
    def terminated_on_error(self) -> Iterator[None]:
        """Terminate the workers when anything is raised. Raises Crashed if one was found dead."""
        try:
            yield
        except BaseException as error:
            # When a worker has died, the executor terminates all others but those just starting up,
            # and then waits for these forever.
            for process in set(active_children()) - self.existing:
                process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise Crashed(
                "a worker process was killed (out of memory?); rerun, and lower NANOGPT_WORKERS if "
                "it happens again"
            ) from None


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT in this context, and forever in processes that are started in it.

    A terminal sends Ctrl-C to all of them; only the parent handles it and ends its workers.
    """
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def environment_defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the variables that are not set yet, for processes started in this context."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def initialize_worker(make: Callable[[], Callable[[Any], Any]]) -> None:
    """Initialize a worker process before its first task."""
    gc.freeze()  # as `stages.runtime.entry.run_command` does
    exit_with_parent()
    global _worker
    _worker = make()


def run_task(task: Any) -> Any:
    """Run one task in a worker process."""
    return _worker(task)


def results_in_order(
    submit: Callable[[T], Future[R]], tasks: Iterable[T], ahead: int
) -> Iterator[R]:
    """Yield the results in order, with at most `ahead` later tasks submitted at a time.

    Unlike `nanogpt.data.prefetch.bounded_map`, for threads, this cancels nothing when it ends
    early: Python 3.11's executor fails on a canceled future when a worker was killed
    (python/cpython#107219). The caller terminates what still runs.
    """
    pending: deque[Future[R]] = deque()
    for task in tasks:
        pending.append(submit(task))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
