"""Compressed files and archives, read as streams: nothing is extracted into a folder.

An archive is not trusted. Members outside of its folder, links, devices and encrypted members are
refused by name, and every decompressed byte counts against a budget, so that a decompression bomb
is noticed early. Members are sorted by name: the same files packed in another order give the same
corpus.
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

# Magic numbers by file suffix; a .zst file may begin with a skippable frame.
COMPRESSIONS = {
    ".gz": (b"\x1f\x8b",),
    ".zst": (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"),
    ".xz": (b"\xfd7zXZ\0",),
}
ARCHIVES = (".zip", ".tar")  # also compressed

CHUNK = 1 << 20
TAR_BLOCK = 512  # bytes; a block of zeros ends a tar archive

# A file that decompresses to more than both limits is a bomb. Text shrinks 3 to 10 times, tables
# and logs some 50; deflate ends at 1,032, the others far beyond. Below 256 MiB nothing is refused.
BOMB_RATIO = 250
BOMB_BYTES = 256 << 20

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def split_suffixes(name: str) -> tuple[str, str]:
    """Return the suffix of the compression, or "", and that of the content, in lower case.

    For example (".gz", ".jsonl") for `songs.jsonl.gz`, ("", ".txt") for `songs.txt`.
    """
    path = PurePosixPath(name.lower())
    if path.suffix == ".tgz":
        return ".gz", ".tar"
    if path.suffix in COMPRESSIONS:
        return path.suffix, PurePosixPath(path.stem).suffix
    return "", path.suffix


def printable_name(name: str) -> str:
    """Return a name with control characters, line breaks and bytes that are not UTF-8 escaped."""
    utf8 = name.encode("utf-8", "backslashreplace").decode()  # file systems allow other bytes
    return CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), utf8)


class Budget:
    """A limit on the bytes decompressed from one file on the disk, over all its members."""

    def __init__(self, name: str, packed_bytes: int) -> None:
        self.name = name
        self.packed_bytes = packed_bytes
        self.bytes = 0

    def spend(self, n_bytes: int) -> None:
        """Count more decompressed bytes. Raises ValueError if they exceed the limit."""
        self.check(n_bytes)
        self.bytes += n_bytes

    def check(self, n_bytes: int) -> None:
        """Raise ValueError if `n_bytes` more would exceed the limit."""
        limit = max(BOMB_BYTES, BOMB_RATIO * self.packed_bytes)
        if self.bytes + n_bytes > limit:
            raise ValueError(
                f"{self.name} has {self.packed_bytes:,} bytes and unpacks to more than {limit:,}: "
                "no text compresses that well, so it may be a decompression bomb; if you trust "
                "it, unpack it and set corpus.path to the folder"
            )


class Readable(Protocol):
    """The interface of a decompressor."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class BudgetStream(io.RawIOBase):
    """A decompressed stream that counts against a budget and reports damage as ValueError."""

    def __init__(self, name: str, stream: Readable, budget: Budget) -> None:
        self.name = name
        self.stream = stream
        self.budget = budget
        self.bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read into a buffer. Raises ValueError if the file is damaged or a bomb."""
        view = memoryview(buffer)
        try:
            content = self.stream.read(len(view))
        except DAMAGE as error:
            raise ValueError(
                f"{self.name} is truncated or damaged after {self.bytes:,} decompressed bytes: "
                f"{error}; use an intact copy"
            ) from None
        self.bytes += len(content)
        self.budget.spend(len(content))
        view[: len(content)] = content
        return len(content)


def decompressed(name: str, stream: io.BufferedReader, budget: Budget) -> io.BufferedReader:
    """Return a stream of the decompressed content, or `stream` itself if it is not compressed.

    Raises ValueError if the file does not begin as its suffix says.
    """
    compression, _ = split_suffixes(name)
    if not compression:
        return stream
    start = stream.peek(1)[: len(COMPRESSIONS[compression][0])]
    if not start:  # gzip and zstd would accept it as an empty file
        raise ValueError(
            f"{name} has 0 bytes, so it is not a {compression} file; use an intact copy"
        )
    if not any(magic.startswith(start) for magic in COMPRESSIONS[compression]):
        raise ValueError(
            f"{name} is not a {compression} file, it begins with {start!r}; use a file that is, "
            "or correct its extension"
        )
    return io.BufferedReader(BudgetStream(name, decompressor(compression, stream), budget), CHUNK)


def decompressor(compression: str, stream: io.BufferedReader) -> Readable:
    """Return a decompressor that reads all frames of a compressed stream."""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=stream)
    if compression == ".xz":
        return lzma.LZMAFile(stream)
    zstd: Readable = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return zstd


def make_seekable(stream: io.BufferedReader) -> BinaryIO:
    """Return the stream, or a copy of it in an anonymous temporary file if it cannot seek.

    Raises OSError if there is no room for the copy.
    """
    if stream.seekable():
        return stream
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes, and so deletes, it
    shutil.copyfileobj(stream, file, CHUNK)
    file.seek(0)
    return file


def members(
    name: str, stream: io.BufferedReader, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the wanted members of an archive, sorted by name and named `archive/member`.

    Raises ValueError if any member could do harm or the archive is damaged.
    """
    read_members = zip_members if split_suffixes(name)[1] == ".zip" else tar_members
    with make_seekable(stream) as file:
        try:
            yield from read_members(name, file, wanted, budget)
        except (*DAMAGE, tarfile.TarError, NotImplementedError, UnicodeDecodeError) as error:
            # zipfile raises the last two at an unknown compression method or an undecodable name.
            raise ValueError(f"{name} cannot be read: {error}; use an intact copy") from None


def zip_members(
    name: str, file: BinaryIO, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the wanted members of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        check_members(name, [(info.filename, zip_fault(info)) for info in archive.infolist()])
        for path in sorted(path for path, info in infos.items() if not info.is_dir()):
            if wanted(path):
                with archive.open(infos[path]) as stream:
                    member = BudgetStream(f"{name}/{printable_name(path)}", stream, budget)
                    yield member.name, io.BufferedReader(member, CHUNK)


def zip_fault(info: zipfile.ZipInfo) -> str | None:
    """Return why a member of a zip archive is refused, or None."""
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 if it was packed on a system without modes
    if stat.S_ISLNK(mode):
        return "a link"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device"
    return "encrypted" if info.flag_bits & 1 else None


def tar_members(
    name: str, file: BinaryIO, wanted: Callable[[str], bool], budget: Budget
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the wanted members of a tar archive."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="replace") as archive:
        infos = {info.name: info for info in archive.getmembers()}
        file.seek(archive.offset)
        if file.read(TAR_BLOCK) != bytes(TAR_BLOCK):  # tarfile would accept this as the end
            raise ValueError(
                f"{name} is truncated or damaged at byte {archive.offset:,} of the archive; "
                "use an intact copy"
            )
        check_members(name, [(info.name, tar_fault(info)) for info in archive.getmembers()])
        for path in sorted(path for path, info in infos.items() if info.isfile()):
            if wanted(path):
                stream = archive.extractfile(infos[path])
                assert isinstance(stream, io.BufferedReader)  # regular files have content
                yield f"{name}/{printable_name(path)}", stream


def tar_fault(info: tarfile.TarInfo) -> str | None:
    """Return why a member of a tar archive is refused, or None."""
    if info.issym() or info.islnk():
        return "a link"
    if info.issparse():
        return "a sparse file, which can claim any size"
    return None if info.isfile() or info.isdir() else "a device"


def check_members(name: str, faults: list[tuple[str, str | None]]) -> None:
    """Raise ValueError naming the first member that has a fault, a bad path or another's name."""
    for path, fault in faults:
        if PureWindowsPath(path).root or ".." in PureWindowsPath(path).parts:  # splits at / and \
            fault = "outside of the archive's folder"
        if fault:
            raise ValueError(
                f"{name} is refused: its member {path!r} is {fault}; if you trust it, unpack it "
                "and set corpus.path to the folder"
            )
    repeated = [path for path, count in Counter(path for path, _ in faults).items() if count > 1]
    if repeated:
        raise ValueError(f"{name} is refused: it has two members {repeated[0]!r}")
