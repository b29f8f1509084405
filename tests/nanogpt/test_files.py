"""Folders and files are whole or not there, whatever happens while they are written."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanogpt import files
from nanogpt.files import atomic_dir, atomic_write, drop_cached, file_sha256, flush, flushed_sha256

FoundAfterKills = Callable[[str], list[Any]]


def test_a_folder_takes_its_place_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "out"
    with atomic_dir(folder) as draft:
        (draft / "a.txt").write_text("a")
        (draft / "deep").mkdir()
        (draft / "deep" / "b.txt").write_text("b")
        assert not folder.exists()
    assert (folder / "a.txt").read_text() == "a"
    assert (folder / "deep" / "b.txt").read_text() == "b"
    assert list(folder.parent.iterdir()) == [folder]


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_dir(tmp_path / "out") as draft:
        (draft / "half.txt").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with atomic_dir(folder) as draft:
        (draft / "a.txt").write_text("old")
    with pytest.raises(KeyError), atomic_dir(folder) as draft:
        (draft / "a.txt").write_text("new")
        raise KeyError
    assert (folder / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_new_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in ("old.txt", "new.txt"):
        with atomic_dir(folder) as draft:
            (draft / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["new.txt"]


def test_remains_of_a_killed_writer_do_not_get_in(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "out") as draft:
        pass
    draft.mkdir()  # as a killed writer leaves it
    (draft / "half.txt").write_text("half")
    with atomic_dir(tmp_path / "out") as draft:
        (draft / "a.txt").write_text("a")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


REPLACE = """
import shutil
from nanogpt.files import atomic_dir
out = folder / "out"

def write(text):
    with atomic_dir(out) as draft:
        for name in "abc":
            (draft / name).write_text(text)

def prepare():
    shutil.rmtree(out, ignore_errors=True)
    {before}

def act():
    write("new")

def look():
    return sorted(path.read_text() for path in out.iterdir()) if out.exists() else None
"""


def test_a_killed_writer_leaves_no_half_folder(found_after_kills: FoundAfterKills) -> None:
    found = found_after_kills(REPLACE.format(before="pass"))
    assert len(found) > 5
    assert found[0] is None
    assert found[-1] == ["new"] * 3
    assert all(one in (None, ["new"] * 3) for one in found)


def test_a_killed_replacement_leaves_the_old_the_new_or_none(
    found_after_kills: FoundAfterKills,
) -> None:
    found = found_after_kills(REPLACE.format(before="write('old')"))
    assert found[0] == ["old"] * 3
    assert found[-1] == ["new"] * 3
    assert all(one in (["old"] * 3, None, ["new"] * 3) for one in found), found


def test_a_text_is_replaced_in_one_move(tmp_path: Path) -> None:
    file = tmp_path / "above" / "note.json"
    atomic_write(file, "one")
    atomic_write(file, "zwei äöü")
    assert file.read_text(encoding="utf-8") == "zwei äöü"
    assert list(file.parent.iterdir()) == [file]


def test_a_killed_writer_leaves_the_old_text_or_the_new(
    found_after_kills: FoundAfterKills,
) -> None:
    found = found_after_kills("""
from nanogpt.files import atomic_write
prepare = lambda: atomic_write(folder / "note", "old")
act = lambda: atomic_write(folder / "note", "new")
look = lambda: (folder / "note").read_text()
""")
    assert len(found) > 2
    assert found == sorted(found, reverse=True)  # old, old, ..., new
    assert set(found) == {"old", "new"}


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "abc") == flushed_sha256(tmp_path / "abc") == expected


def test_a_file_that_cannot_reach_the_disk_has_no_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(f"{path} is on a broken disk")

    monkeypatch.setattr(files, "flush", fail)
    (tmp_path / "abc").write_bytes(b"abc")
    with pytest.raises(OSError, match="broken disk"):
        flushed_sha256(tmp_path / "abc")


def cached_pages(file: Path) -> int:
    """How many pages of a file the system holds in memory, by mincore(2)."""
    size = file.stat().st_size
    state = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), size) as mapped:
        start = (ctypes.c_char * size).from_buffer(mapped)
        assert ctypes.CDLL(None, use_errno=True).mincore(start, ctypes.c_size_t(size), state) == 0
        del start
    return sum(page & 1 for page in state)


def test_a_file_dropped_from_memory_is_still_there(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"abcd" * 100_000)
    flush(file)
    assert sys.platform != "linux" or cached_pages(file) > 0
    drop_cached(file)
    if sys.platform == "linux" and on_disk(tmp_path):
        assert cached_pages(file) == 0
    assert file.read_bytes() == b"abcd" * 100_000


def on_disk(folder: Path) -> bool:
    """Whether a folder is on a disk and not in memory."""
    mounts = psutil.disk_partitions(all=True)
    within = [mount for mount in mounts if folder.is_relative_to(mount.mountpoint)]
    return max(within, key=lambda mount: len(mount.mountpoint)).fstype not in ("tmpfs", "ramfs")
