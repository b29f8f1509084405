"""What is read before it is asked for, and what becomes of errors and of the thread."""

import threading
from contextlib import closing

import pytest

from nanogpt.ahead import read_ahead


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_reading_goes_ahead_so_far_and_no_farther(ahead: int) -> None:
    read, asked = [], threading.Event()

    def note(chunk: int) -> int:
        read.append(chunk)
        if chunk == ahead:
            asked.set()
        return chunk

    with closing(read_ahead(note, range(100), ahead)) as chunks:
        assert next(chunks) == 0
        assert asked.wait(timeout=10)
    assert read == list(range(ahead + 1))


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_all_comes_in_order(count: int) -> None:
    assert list(read_ahead(lambda chunk: chunk * chunk, range(count), 2)) == [
        chunk * chunk for chunk in range(count)
    ]


def test_an_error_of_the_reader_is_raised_where_its_chunk_is_asked_for() -> None:
    def fail(chunk: int) -> int:
        if chunk == 3:
            raise OSError("the disk is gone")
        return chunk

    chunks = read_ahead(fail, range(10), 2)
    assert [next(chunks) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(chunks)
    assert not any("reader" in thread.name for thread in threading.enumerate())
