"""Compressed files and archives: what is inside, as streams; nothing is unpacked into folders.

What an archive says of itself is not believed. Members that would land elsewhere, links, devices
and encrypted ones are refused by name, and all that comes out of a file counts against a budget,
so that a bomb is noticed while it unpacks. Members come sorted by name: the same texts packed in
another order are the same corpus.
"""

import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

import pyarrow as pa

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What a file of each kind begins with; zstd's may do so with a frame to be skipped.
COMPRESSIONS = {
    ".gz": (b"\x1f\x8b",),
    ".zst": (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"),
    ".xz": (b"\xfd7zXZ\0",),
}
ARCHIVES = (".zip", ".tar")  # also compressed

CHUNK = 1 << 20
TAR_BLOCK = 512  # bytes; one of zeros ends a tar archive

# A bomb is what unpacks to more than both. Text packs 3 to 10 times, tables and logs some 50;
# deflate ends at 1,032, the others far beyond. Below 256 MiB nothing is worth refusing.
BOMB_RATIO = 250
BOMB_BYTES = 256 << 20

BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def packing(name: str) -> tuple[str, str]:
    """By the end of a file's name its compression, or "", and the kind of what it holds."""
    path = PurePosixPath(name.lower())
    if path.suffix == ".tgz":
        return ".gz", ".tar"
    if path.suffix in COMPRESSIONS:
        return path.suffix, PurePosixPath(path.stem).suffix
    return "", path.suffix


def in_one_line(name: str) -> str:
    """Return a name with what breaks a line, and what is no UTF-8, written as an escape."""
    utf8 = name.encode("utf-8", "backslashreplace").decode()  # old file names need not be that
    return BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), utf8)


class Budget:
    """How many bytes may come out of a file on the disk, over all its members and layers."""

    def __init__(self, name: str, packed_bytes: int) -> None:
        self.name = name
        self.packed_bytes = packed_bytes
        self.bytes = 0

    def spend(self, n_bytes: int) -> None:
        """Take note of some more. Raises ValueError when it is too much."""
        self.expect(n_bytes)
        self.bytes += n_bytes

    def expect(self, n_bytes: int) -> None:
        """Raise ValueError when so many more would be too much."""
        limit = max(BOMB_BYTES, BOMB_RATIO * self.packed_bytes)
        if self.bytes + n_bytes > limit:
            raise ValueError(
                f"{self.name} has {self.packed_bytes:,} bytes and unpacks to more than {limit:,}: "
                "no text packs that well, it may be a bomb; if you trust it, "
                "unpack it yourself and name the folder"
            )


class Readable(Protocol):
    """What any decompressor offers."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class Unpacked(io.RawIOBase):
    """A stream out of a compressed file or an archive, on a budget; it says what is damaged."""

    def __init__(self, name: str, stream: Readable, budget: Budget) -> None:
        self.name = name
        self.stream = stream
        self.budget = budget
        self.bytes = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read into a buffer. Raises ValueError when the file is damaged or a bomb."""
        view = memoryview(buffer)
        try:
            content = self.stream.read(len(view))
        except DAMAGE as error:
            raise ValueError(
                f"{self.name} is cut short or damaged after {self.bytes:,} bytes of what it "
                f"holds: {error}; use one that is whole"
            ) from None
        self.bytes += len(content)
        self.budget.spend(len(content))
        view[: len(content)] = content
        return len(content)


def unpacked(name: str, stream: io.BufferedReader, budget: Budget) -> io.BufferedReader:
    """What a file holds: unpacked if its name says that it is compressed, else as it is."""
    compression, _ = packing(name)
    if not compression:
        return stream
    start = stream.peek(1)[: len(COMPRESSIONS[compression][0])]
    if not start:  # gzip and zstd take that for an empty text
        raise ValueError(
            f"{name} has 0 bytes, which is no {compression} file; use one that is whole"
        )
    if not any(magic.startswith(start) for magic in COMPRESSIONS[compression]):
        raise ValueError(
            f"{name} is no {compression} file, it begins with {start!r}; use one that is, or "
            "give it the ending of what it is"
        )
    return io.BufferedReader(Unpacked(name, decompressor(compression, stream), budget), CHUNK)


def decompressor(compression: str, stream: io.BufferedReader) -> Readable:
    """Reads a compressed stream of one frame or several."""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=stream)
    if compression == ".xz":
        return lzma.LZMAFile(stream)
    decompressing: Readable = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return decompressing


def seekable(stream: io.BufferedReader) -> BinaryIO:
    """The same bytes with random access; unless it has that, a file without a name takes them.

    Raises OSError when there is no room for it.
    """
    if stream.seekable():
        return stream
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it is gone with its last reader
    shutil.copyfileobj(stream, file, CHUNK)
    file.seek(0)
    return file


def members(
    name: str, stream: io.BufferedReader, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """The members of an archive that are wanted, sorted by name, as `archive/member`.

    Raises ValueError when any member could do harm or the archive is damaged.
    """
    inside = zip_members if packing(name)[1] == ".zip" else tar_members
    with seekable(stream) as file:
        try:
            yield from inside(name, file, wanted, budget)
        except (*DAMAGE, tarfile.TarError, NotImplementedError, UnicodeDecodeError) as error:
            # The last two are zipfile's: a method it does not know, a name of no encoding.
            raise ValueError(f"{name} cannot be read: {error}; use one that is whole") from None


def zip_members(
    name: str, file: BinaryIO, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Members of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        check_members(name, [(info.filename, zip_fault(info)) for info in archive.infolist()])
        for path in sorted(path for path, info in infos.items() if not info.is_dir()):
            if wanted(path):
                with archive.open(infos[path]) as stream:
                    member = Unpacked(f"{name}/{in_one_line(path)}", stream, budget)
                    yield member.name, io.BufferedReader(member, CHUNK)


def zip_fault(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with a member of a zip archive."""
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was packed on another system
    if stat.S_ISLNK(kind):
        return "a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device"
    return "encrypted" if info.flag_bits & 1 else None


def tar_members(
    name: str, file: BinaryIO, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Members of a tar archive."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="replace") as archive:
        infos = {info.name: info for info in archive.getmembers()}
        file.seek(archive.offset)
        if file.read(TAR_BLOCK) != bytes(TAR_BLOCK):  # tarfile takes that for the end
            raise ValueError(
                f"{name} is cut short or damaged at byte {archive.offset:,} of the archive; "
                "use one that is whole"
            )
        check_members(name, [(info.name, tar_fault(info)) for info in archive.getmembers()])
        for path in sorted(path for path, info in infos.items() if info.isfile()):
            if wanted(path):
                stream = archive.extractfile(infos[path])
                assert isinstance(stream, io.BufferedReader)  # regular files have content
                yield f"{name}/{in_one_line(path)}", stream


def tar_fault(info: tarfile.TarInfo) -> str | None:
    """What is wrong with a member of a tar archive."""
    if info.issym() or info.islnk():
        return "a link"
    if info.issparse():
        return "a sparse file, which can claim any size"
    return None if info.isfile() or info.isdir() else "a device"


def check_members(name: str, faults: list[tuple[str, str | None]]) -> None:
    """Raise ValueError on the first member that is not a plain file with a name of its own."""
    for path, fault in faults:
        if PureWindowsPath(path).root or ".." in PureWindowsPath(path).parts:  # knows / and \
            fault = "outside of the archive's folder"
        if fault:
            raise ValueError(
                f"{name} is refused: its member {path!r} is {fault}; unpack it yourself and name "
                "the folder, if you trust it"
            )
    twice = [path for path, count in Counter(path for path, _ in faults).items() if count > 1]
    if twice:
        raise ValueError(f"{name} is refused: it has two members {twice[0]!r}")
