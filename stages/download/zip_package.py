"""The zip packages that word processors and e-books write: their parts, and XML read as a stream.

Parts are opened by name and nothing else in a package is looked at, so macros, pictures and links
stay where they are. XML is never held as a tree, a document type is refused, and whatever is
unpacked counts against the budget of the file.
"""

import io
import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stages.download.archives import CHUNK, DAMAGE, Budget, Unpacked, seekable
from stages.lib.reasons import ENCRYPTED, LeftOut


class Target:
    """Takes the events of a parser, and does nothing; tags are written `{namespace}name`."""

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Take note of an element that begins."""

    def end(self, tag: str, /) -> None:
        """Take note of an element that ends."""

    def data(self, text: str, /) -> None:
        """Take some of the characters in the innermost open element."""


class Package:
    """An open zip package."""

    def __init__(self, name: str, archive: zipfile.ZipFile, budget: Budget) -> None:
        self.name = name
        self.archive = archive
        self.budget = budget
        self.parts = frozenset(archive.namelist())

    @contextmanager
    def open(self, part: str) -> Iterator[io.BufferedReader]:
        """Open a part. Raises ValueError when there is none of that name."""
        if part not in self.parts:
            raise ValueError(f"{self.name} has no part {part!r}; use a file that is whole")
        info = self.archive.getinfo(part)
        if info.flag_bits & 1:
            raise LeftOut(ENCRYPTED)
        self.budget.expect(info.file_size)
        with self.archive.open(info) as stream:
            unpacked = Unpacked(f"{self.name}/{part}", stream, self.budget)
            yield io.BufferedReader(unpacked, CHUNK)

    def feed(self, part: str, target: Target) -> None:
        """Send the XML of a part to a target. Raises ValueError when it is not well-formed."""
        with self.open(part) as stream:
            feed(f"{self.name}/{part}", stream, target)


@contextmanager
def zip_package(name: str, stream: io.BufferedReader, budget: Budget) -> Iterator[Package]:
    """Open a package. Raises ValueError when it is damaged."""
    with seekable(stream) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield Package(name, archive, budget)
        except (*DAMAGE, NotImplementedError, UnicodeDecodeError) as error:
            # The last two are zipfile's: a method it does not know, a name of no encoding.
            raise ValueError(f"{name} cannot be read: {error}; use one that is whole") from None


def feed(name: str, stream: BinaryIO, target: Target) -> None:
    """Send the events of some XML to a target. Raises ValueError when it is not well-formed."""
    from lxml.etree import XMLParser, XMLSyntaxError

    parser = XMLParser(
        target=WithoutDoctype(name, target), resolve_entities=False, no_network=True, load_dtd=False
    )
    try:
        while chunk := stream.read(CHUNK):
            parser.feed(chunk)
        parser.close()
    except XMLSyntaxError as error:
        raise ValueError(f"{name} is not well-formed XML: {error.msg}") from None


class WithoutDoctype:
    """A target that refuses a document type, which could declare entities that grow."""

    def __init__(self, name: str, target: Target) -> None:
        self.name = name
        self.start, self.end, self.data = target.start, target.end, target.data

    def doctype(self, *_: Any) -> None:
        """Raise ValueError: no word processor writes one."""
        raise ValueError(f"{self.name} declares a document type, which no word processor writes")

    def close(self) -> None:
        """Finish; the other target holds what was found."""


def inside(folder: str, path: str) -> str:
    """Return the name of the part that a path in a package, relative to `folder`, leads to."""
    return posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")
