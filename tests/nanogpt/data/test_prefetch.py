"""What is begun before it is asked for, and what becomes of errors and of the thread."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from nanogpt.data.prefetch import bounded_map, prefetch


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_reading_goes_ahead_so_far_and_no_farther(ahead: int) -> None:
    read, asked = [], threading.Event()

    def note(chunk: int) -> int:
        read.append(chunk)
        if chunk == ahead:
            asked.set()
        return chunk

    with closing(prefetch(note, range(100), ahead)) as chunks:
        assert next(chunks) == 0
        assert asked.wait(timeout=60)
    assert read == list(range(ahead + 1))


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_all_comes_in_order(count: int) -> None:
    assert list(prefetch(lambda chunk: chunk * chunk, range(count), 2)) == [
        chunk * chunk for chunk in range(count)
    ]


def test_an_error_of_the_reader_is_raised_where_its_chunk_is_asked_for() -> None:
    def fail(chunk: int) -> int:
        if chunk == 3:
            raise OSError("the disk is gone")
        return chunk

    chunks = prefetch(fail, range(10), 2)
    assert [next(chunks) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(chunks)
    assert not any("reader" in thread.name for thread in threading.enumerate())


def test_threads_of_a_pool_hold_no_more_than_asked_for_and_give_it_in_order() -> None:
    """The first item waits for the second, so one thread alone would never end."""
    taken, second = [], threading.Event()

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        if item == 1:
            second.set()
        assert second.wait(timeout=60)
        return item

    with ThreadPoolExecutor(2) as pool, closing(bounded_map(pool, work, items(), 2)) as results:
        assert next(results) == 0
        assert taken == [0, 1, 2]
        assert list(results) == list(range(1, 50))


def test_what_has_not_begun_when_the_results_are_let_go_never_does() -> None:
    begun, go = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or go.wait(timeout=60)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = bounded_map(pool, work, range(50), 5)
        assert next(results) == 0
        results.close()
        go.set()
    assert begun in ([0], [0, 1])
