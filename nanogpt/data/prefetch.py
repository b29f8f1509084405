"""Prefetching: threads work ahead of the consumer; order and results stay the same."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """Yield work(item) for each item, in order, computed by the pool up to `ahead` items early.

    Unlike `pool.map` before Python 3.14, it bounds memory: at most `ahead` + 1 items and results
    are held at a time. When the iterator is closed or an error ends it, work that has not begun is
    canceled.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def prefetch(read: Callable[[T], R], chunks: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield read(chunk) for each chunk, in order, read by a thread up to `ahead` chunks early.

    The thread ends with this iterator.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as thread:
        yield from bounded_map(thread, read, chunks, ahead)
