"""Files and members of archives as decompressed streams, chosen by their names."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from stages.download.archives import (
    ARCHIVES,
    Budget,
    decompressed,
    members,
    printable_name,
    split_suffixes,
)
from stages.download.office import OFFICE, needs_extra
from stages.lib.reasons import NEEDS_EXTRA

ENCODED = (".txt", ".md", ".html", ".htm", ".jsonl", ".csv", ".tsv")  # read by corpus.encoding
READABLE = (*ENCODED, ".parquet", *OFFICE, *ARCHIVES)


class FileStream(NamedTuple):
    """A file or a member of an archive, decompressed, with the budget of the file on the disk."""

    name: str
    stream: io.BufferedReader
    budget: Budget


def is_hidden(path: PurePath) -> bool:
    """Return True if a file, or a folder it is in, has a name that begins with a dot or `~$`.

    Files of editors and git begin with a dot, and Word puts a `~$` file next to an open document.
    """
    return any(part.startswith((".", "~$")) for part in path.parts)


def is_readable(name: str) -> bool:
    """Return True if there is a reader for files with this suffix."""
    kind = split_suffixes(name)[1]
    return kind in READABLE and not needs_extra(kind)


def skip_reason(name: str) -> str:
    """Return the reason to count an unreadable file under."""
    if needs_extra(split_suffixes(name)[1]):
        return NEEDS_EXTRA
    return f"file ending in {PurePosixPath(name).suffix or 'nothing'}"


def file_streams(name: str, file: Path, skipped: Counter[str]) -> Iterator[FileStream]:
    """Yield a file, or the readable members of an archive, and count the others in `skipped`."""

    def wanted(member: str) -> bool:
        if is_hidden(PurePosixPath(member)):
            skipped["hidden file"] += 1
        elif split_suffixes(member)[1] in ARCHIVES:
            skipped["archive in an archive"] += 1
        elif not is_readable(member):
            skipped[skip_reason(member)] += 1
        else:
            return True
        return False

    name = printable_name(name)
    with file.open("rb") as raw:
        budget = Budget(name, file.stat().st_size)
        stream = decompressed(name, raw, budget)
        if split_suffixes(name)[1] not in ARCHIVES:
            yield FileStream(name, stream, budget)
            return
        for member, packed in members(name, stream, wanted, budget):
            yield FileStream(member, decompressed(member, packed, budget), budget)
