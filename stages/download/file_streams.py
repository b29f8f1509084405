"""Which files are read: by their names, out of archives, unpacked; the rest is counted."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from stages.download.archives import ARCHIVES, Budget, in_one_line, members, packing, unpacked
from stages.download.office import OFFICE, is_missing
from stages.lib.reasons import NEEDS_EXTRA

ENCODED = (".txt", ".md", ".html", ".htm", ".jsonl", ".csv", ".tsv")  # by corpus.encoding
READABLE = (*ENCODED, ".parquet", *OFFICE, *ARCHIVES)


class FileStream(NamedTuple):
    """A file or a member of an archive, unpacked, with the budget of the file on the disk."""

    name: str
    stream: io.BufferedReader
    budget: Budget


def is_hidden(path: PurePath) -> bool:
    """Whether a name on the way starts with a dot, as editors' and git's own files do, or with ~$.

    Word puts a file of the latter kind next to one that is open.
    """
    return any(part.startswith((".", "~$")) for part in path.parts)


def is_readable(name: str) -> bool:
    """Whether there is a reader for files with the end of this name."""
    kind = packing(name)[1]
    return kind in READABLE and not is_missing(kind)


def unreadable(name: str) -> str:
    """What to count a file as that is left out."""
    if is_missing(packing(name)[1]):
        return NEEDS_EXTRA
    return f"file ending in {PurePosixPath(name).suffix or 'nothing'}"


def file_streams(name: str, file: Path, skipped: Counter[str]) -> Iterator[FileStream]:
    """Yield a file, or what is to be read of an archive; of that the rest is counted."""

    def wanted(member: str) -> bool:
        if is_hidden(PurePosixPath(member)):
            skipped["hidden file"] += 1
        elif packing(member)[1] in ARCHIVES:
            skipped["archive in an archive"] += 1
        elif not is_readable(member):
            skipped[unreadable(member)] += 1
        else:
            return True
        return False

    name = in_one_line(name)
    with file.open("rb") as raw:
        budget = Budget(name, file.stat().st_size)
        stream = unpacked(name, raw, budget)
        if packing(name)[1] not in ARCHIVES:
            yield FileStream(name, stream, budget)
            return
        for member, inside in members(name, stream, wanted, budget):
            yield FileStream(member, unpacked(member, inside, budget), budget)
