"""Atomic files and folders: complete or absent, whenever a process is killed.

A folder is written next to its final path, flushed to the disk and renamed, so that no reader ever
sees half of one.
"""

import filecmp
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, which replaces `folder` when the block succeeds."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in (*draft.rglob("*"), draft):
            flush(path)
        atomic_rmtree(folder)
        draft.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def atomic_rmtree(folder: Path) -> None:
    """Remove a folder, if it exists, by renaming it first: no part of it stays at its path."""
    removed = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.exists():
        folder.rename(removed)
        shutil.rmtree(removed)


def atomic_write(file: Path, text: str) -> None:
    """Replace the text of a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        flush(draft)
        draft.rename(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        error.filename = error.filename or str(file)  # a failed write does not name the file
        raise


def write_json(file: Path, content: Any) -> None:
    """Write indented JSON, not atomically: for files inside an `atomic_dir`."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def link_equal(source: Path, folder: Path) -> int:
    """Replace files below `folder` that equal `source` in name and bytes by hard links to it.

    Return how many there are. Where the file system has no links, they stay as they are.
    """
    linked = 0
    for file in folder.rglob(source.name):
        if file.samefile(source) or not filecmp.cmp(file, source, shallow=False):
            continue
        draft = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            draft.hardlink_to(source)
        except OSError:
            return linked
        draft.rename(file)
        linked += 1
    return linked


def flush(path: Path) -> None:
    """Flush a file or folder to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_cached(path: Path) -> None:
    """Drop a file from the page cache, on Linux alone.

    For a large file that will not be read again soon; the file itself is untouched.
    """
    if sys.platform == "linux":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flushed_sha256(path: Path) -> str:
    """Flush a file to the disk and return its SHA-256."""
    with ThreadPoolExecutor(1) as thread:
        flushing = thread.submit(flush, path)
        sha256 = file_sha256(path)  # while it is flushed
        flushing.result()
    return sha256


def is_intact(path: Path, sha256: str) -> bool:
    """Return whether a file exists and has this SHA-256."""
    return path.is_file() and file_sha256(path) == sha256
