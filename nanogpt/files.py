"""Files on disk: whole or not there at all.

A folder is written next to its final place, flushed to the disk and renamed into it, so that no
reader ever meets half of one, whatever is killed.
"""

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
    """A new folder next to `folder` to write into; it takes its place when the block ends well."""
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
    """Remove a folder, if it is there, so that no part of it is left under its name."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def atomic_write(file: Path, text: str) -> None:
    """Replace a file's text in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        flush(draft)
        draft.rename(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        error.filename = error.filename or str(file)  # a failed write names no file
        raise


def write_json(file: Path, content: Any) -> None:
    """Write JSON to be read by people as well, into a folder that is not in its place yet."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def flush(path: Path) -> None:
    """Wait until a file's or folder's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_cached(path: Path) -> None:
    """Let the system use the memory that holds a file's content for something else; on Linux alone.

    For a large file that will not be read again soon. The file stays as it is.
    """
    if sys.platform == "linux":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flushed_sha256(path: Path) -> str:
    """The SHA-256 of a file, whose bytes are on the disk when it is returned."""
    with ThreadPoolExecutor(1) as thread:
        flushing = thread.submit(flush, path)
        sha256 = file_sha256(path)  # meanwhile
        flushing.result()
    return sha256


def is_whole(path: Path, sha256: str) -> bool:
    """Whether there is such a file, with that SHA-256."""
    return path.is_file() and file_sha256(path) == sha256
