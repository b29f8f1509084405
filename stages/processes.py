"""Work spread over processes of this machine, its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from stages.command import Crashed
from stages.supervise import end_with_parent

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    work: Callable[[T], R],
    tasks: Sequence[T],
    workers: int,
    *,
    prepare: Callable[..., None] | None = None,
    about: tuple[Any, ...] = (),
) -> Iterator[R]:
    """work(task) of each, in order, by `workers` processes, or by this one where one is enough.

    Each process calls prepare(*about) first. Raises what the work raises, Crashed when one of the
    processes is killed.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        if prepare:
            prepare(*about)
        yield from map(work, tasks)
        return
    context = get_context("spawn")  # forking a process with threads may deadlock
    pool = ProcessPoolExecutor(workers, context, begin, (prepare, about))
    try:
        yield from in_order(lambda task: pool.submit(work, task), tasks, ahead=2 * workers)
    except BrokenProcessPool:
        raise Crashed(
            "a worker process was killed (by the system, for memory?); run again, with fewer "
            "NANOGPT_WORKERS if it happens again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin(prepare: Callable[..., None] | None, about: tuple[Any, ...]) -> None:
    """What a worker process does before its first task."""
    end_with_parent()
    if prepare:
        prepare(*about)


def in_order(submit: Callable[[T], Future[R]], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """The results of the tasks, at most `ahead` of which are waiting or under way."""
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
