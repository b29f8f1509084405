import hashlib
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.download import fetch as room
from stages.download.fetch import fetch
from stages.runtime import progress as meter

FILE = Path("cache/a.txt")
PARTIAL = Path("cache/a.txt.part")
WHOLE = random.Random(0).randbytes(300_000)
HALF = WHOLE[:200_000]

Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("workspace")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def grows(pauses: list[float], count: int) -> bool:
    """Whether that many tries came after the first: one at once, the others after longer pauses."""
    lengths = [2.0**n for n in range(1, count)]
    return len(pauses) == max(0, count - 1) and all(
        length <= pause < length + 1 for length, pause in zip(lengths, pauses, strict=True)
    )


# --- answers that bring nothing ------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_that_is_wrong_is_refused_at_once(
    site: Any, pauses: list[float], make_answer: Make, status: int
) -> None:
    address = site.put("/a.txt", make_answer(status))
    with pytest.raises(ValueError, match=f"{address} returned HTTP {status}"):
        fetch(address, sha256(b""), FILE)
    assert site.asked == ["/a.txt"]
    assert pauses == []


@pytest.mark.parametrize("address", ["http:///a.txt", "http://[1", "gopher://here/a.txt"])
def test_what_is_no_address_is_a_wrong_input(pauses: list[float], address: str) -> None:
    with pytest.raises(ValueError, match=r"^corpus\.urls: .* is not a valid URL"):
        fetch(address, sha256(b""), FILE)
    assert pauses == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again(
    site: Any, pauses: list[float], make_answer: Make, status: int
) -> None:
    trouble = make_answer(status)
    address = site.put("/a.txt", trouble, trouble, trouble, b"at last")
    assert fetch(address, sha256(b"at last"), FILE).read_bytes() == b"at last"
    assert grows(pauses, 3)


def test_a_server_that_stays_in_trouble_is_a_connection_error(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    address = site.put("/a.txt", make_answer(500))
    with pytest.raises(
        ConnectionError, match=f"{address} could not be fetched: the server returned HTTP 500"
    ):
        fetch(address, sha256(b""), FILE)
    assert len(site.asked) == 6
    assert grows(pauses, 5)


def test_a_server_that_is_not_there_is_a_connection_error(
    dead_url: str, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    host = dead_url.removeprefix("http://")
    with pytest.raises(ConnectionError, match=f"could not be fetched: no response from {host}; "):
        fetch(f"{dead_url}/a.txt", sha256(b""), FILE)
    assert grows(pauses, 5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{dead_url}/a.txt: no response from {host}; retrying (attempt 2 of 6)"
    assert len(lines) == 5
    assert not FILE.parent.exists()


def test_an_address_that_leads_in_a_circle_is_refused_at_once(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    address = site.put("/a.txt", make_answer(302, headers=(("Location", "/a.txt"),)))
    with pytest.raises(ValueError, match=rf"^corpus\.urls: {address} redirects in a loop"):
        fetch(address, sha256(b""), FILE)
    assert pauses == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_asked_again_when_it_wants_to_be(
    site: Any, pauses: list[float], make_answer: Make, status: int
) -> None:
    busy = [make_answer(status, headers=(("Retry-After", wish),)) for wish in ("7", "99999")]
    address = site.put("/a.txt", *busy, b"at last")
    fetch(address, sha256(b"at last"), FILE)
    assert pauses == [7, 300]


def test_a_wish_that_nobody_understands_is_no_wish(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    busy = make_answer(503, headers=(("Retry-After", "soon"),))
    address = site.put("/a.txt", busy, busy, b"at last")
    fetch(address, sha256(b"at last"), FILE)
    assert grows(pauses, 2)


def test_a_server_that_falls_silent_is_timed_out(
    site: Any, pauses: list[float], make_answer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TIMEOUT_SECONDS", (0.1, 0.1))
    address = site.put("/a.txt", make_answer(body=HALF, stall=True))
    with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:\d+ has sent nothing for 0\.1 s"):
        fetch(address, sha256(WHOLE), FILE)
    assert grows(pauses, 5)


# --- answers that break off ----------------------------------------------------------------------


def test_a_broken_answer_is_gone_on_with(site: Any, pauses: list[float], make_answer: Make) -> None:
    rest = make_answer(body=WHOLE, etag='"1"')
    address = site.put("/a.txt", make_answer(body=HALF, cut=True, etag='"1"'), rest)
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    start = int(site.ranges[1].removeprefix("bytes=").removesuffix("-"))
    assert len(HALF) - room.CHUNK_BYTES < start <= len(HALF)
    assert site.ranges == ["", f"bytes={start}-"]


def test_a_date_serves_where_there_is_no_strong_etag(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    date = (("Last-Modified", "Sat, 21 Nov 2026 08:00:00 GMT"),)
    weak = make_answer(body=HALF, cut=True, headers=(*date, ("ETag", 'W/"1"')))
    address = site.put("/a.txt", weak, make_answer(body=WHOLE, headers=date))
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert site.ranges[1].startswith("bytes=")


def test_the_next_run_continues_where_this_one_was_given_up(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    first = make_answer(body=HALF, cut=True, etag='"1"')
    address = site.put("/a.txt", first, make_answer(500))
    with pytest.raises(ConnectionError):
        fetch(address, sha256(WHOLE), FILE)
    begun = PARTIAL.stat().st_size
    assert 0 < begun <= len(HALF)
    site.put("/a.txt", make_answer(body=WHOLE, etag='"1"'))
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert site.ranges[-1] == f"bytes={begun}-"
    assert not PARTIAL.exists()


def test_a_killed_download_is_gone_on_with(site: Any, make_answer: Make) -> None:
    address = site.put("/a.txt", make_answer(body=HALF, stall=True, etag='"1"'))
    begun = multiprocessing.get_context("fork").Process(
        target=fetch, args=(address, sha256(WHOLE), FILE)
    )
    begun.start()
    while not (PARTIAL.exists() and PARTIAL.stat().st_size > room.CHUNK_BYTES):
        time.sleep(0.01)
    begun.kill()
    begun.join()
    size = PARTIAL.stat().st_size
    site.put("/a.txt", make_answer(body=WHOLE, etag='"1"'))
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert site.ranges == ["", f"bytes={size}-"]


@pytest.mark.parametrize("marks", [('"1"', ""), ("", ""), ('"1"', '"2"')])
def test_where_going_on_is_impossible_it_begins_again(
    site: Any, pauses: list[float], make_answer: Make, marks: tuple[str, str]
) -> None:
    """The server takes no ranges, gives nothing to know its file by, or has another file now."""
    first = make_answer(body=bytes(200_000), cut=True, etag=marks[0])
    address = site.put("/a.txt", first, make_answer(body=WHOLE, etag=marks[1]))
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert bool(site.ranges[1]) == bool(marks[0])


@pytest.mark.parametrize(
    ("status", "headers"), [(416, ()), (206, ()), (206, (("Content-Range", "bytes 5-9/300000"),))]
)
def test_a_range_that_was_not_asked_for_is_not_taken(
    site: Any, pauses: list[float], make_answer: Make, status: int, headers: Any
) -> None:
    first = make_answer(body=HALF, cut=True, etag='"1"')
    odd = make_answer(status, b"other", headers=headers)
    address = site.put("/a.txt", first, odd, make_answer(body=WHOLE, etag='"1"'))
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert [bool(asked) for asked in site.ranges] == [False, True, False]


def test_patience_lasts_as_long_as_it_gets_on(
    site: Any, pauses: list[float], make_answer: Make
) -> None:
    ends = range(100_000, 300_000, 20_000)
    pieces = [make_answer(body=WHOLE[:end], cut=True, etag='"1"') for end in ends]
    rest = make_answer(body=WHOLE, etag='"1"')
    address = site.put("/a.txt", *pieces, rest)
    assert fetch(address, sha256(WHOLE), FILE).read_bytes() == WHOLE
    assert len(site.asked) > 6
    assert pauses == []


# --- what is there in the end --------------------------------------------------------------------


def test_another_sha256_is_refused_and_what_was_fetched_removed(site: Any) -> None:
    address = site.put("/a.txt", b"changed")
    with pytest.raises(ValueError, match=f"{address} has sha256 {sha256(b'changed')}, but params"):
        fetch(address, sha256(b"as it was"), FILE)
    assert not FILE.parent.exists()


def test_a_wrong_address_leaves_no_folder_but_what_an_earlier_try_brought(
    site: Any, make_answer: Make
) -> None:
    address = site.put("/none.txt", make_answer(404))
    with pytest.raises(ValueError, match="returned HTTP 404"):
        fetch(address, sha256(b"text"), FILE)
    assert not FILE.parent.exists()
    FILE.parent.mkdir(parents=True)
    PARTIAL.write_bytes(b"te")
    with pytest.raises(ValueError, match="returned HTTP 404"):
        fetch(address, sha256(b"text"), FILE)
    assert PARTIAL.read_bytes() == b"te"


def test_a_file_that_is_there_is_not_fetched_again(site: Any) -> None:
    address = site.put("/a.txt", b"once")
    for _ in range(2):
        fetch(address, sha256(b"once"), FILE)
    assert len(site.asked) == 1


def test_a_file_that_is_damaged_is_fetched_again(site: Any) -> None:
    address = site.put("/a.txt", b"once")
    fetch(address, sha256(b"once"), FILE).write_bytes(b"twice")
    assert fetch(address, sha256(b"once"), FILE).read_bytes() == b"once"


def test_a_file_that_came_whole_before_a_kill_is_not_fetched_again(site: Any) -> None:
    address = site.put("/a.txt", b"whole")
    PARTIAL.parent.mkdir()
    PARTIAL.write_bytes(b"whole")
    assert fetch(address, sha256(b"whole"), FILE).read_bytes() == b"whole"
    assert site.asked == []


def test_a_compressed_file_stays_as_it_is_on_the_server(site: Any, make_answer: Make) -> None:
    packed = bytes([0x1F, 0x8B, 8]) + WHOLE[:50]
    answer = make_answer(body=packed, headers=(("Content-Encoding", "gzip"),))
    assert fetch(site.put("/a.txt", answer), sha256(packed), FILE).read_bytes() == packed


def test_its_size_and_how_far_it_is_are_shown(
    site: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "LINE_SECONDS", 0.0)
    address = site.put("/a.txt", WHOLE)
    fetch(address, sha256(WHOLE), FILE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{address}: 300.0 kB to fetch"
    assert lines[-1].startswith(f"{address}: 300.0 kB of 300.0 kB, ")
