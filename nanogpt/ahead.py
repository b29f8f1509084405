"""Reading by a thread what the next steps will ask for: the order and the content stay the same."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

C = TypeVar("C")
R = TypeVar("R")


def read_ahead(read: Callable[[C], R], chunks: Iterable[C], ahead: int) -> Iterator[R]:
    """read(chunk) of each chunk, in order, begun when the one `ahead` before it is asked for.

    One thread reads them all. It ends with this iterator: at its end or an error, or when it is
    closed or let go.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as thread:
        begun: deque[Future[R]] = deque()
        try:
            for chunk in chunks:
                begun.append(thread.submit(read, chunk))
                if len(begun) > ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)  # read nothing more for nobody
