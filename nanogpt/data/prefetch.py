"""Work begun by other threads before its result is asked for: order and results stay the same."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield work(item) of each item, in order, begun when the one `ahead` before it is asked for.

    So no more than `ahead` + 1 items and results are held, however many there are. What has not
    begun when this iterator ends, by an error or because it is closed, never does.
    """
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def prefetch(read: Callable[[T], R], chunks: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield read(chunk) of each chunk as `in_order` does, all read by one thread of its own.

    The thread ends with this iterator.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as thread:
        yield from in_order(thread, read, chunks, ahead)
