"""Zip packages of word processors and e-books: access to their parts, and streaming XML.

Parts are opened by name and the rest of a package is never read, so macros, pictures and links
stay where they are. XML is parsed as a stream and never held as a tree, a document type is refused,
and every decompressed byte counts against the budget of the file.
"""

import io
import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stages.download.archives import CHUNK, DAMAGE, Budget, BudgetStream, make_seekable
from stages.lib.reasons import ENCRYPTED, LeftOut


class Target:
    """Base class for handlers of XML events; tags are written `{namespace}name`."""

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Handle the start of an element."""

    def end(self, tag: str, /) -> None:
        """Handle the end of an element."""

    def data(self, text: str, /) -> None:
        """Handle some of the characters in the innermost open element."""


class Package:
    """An open zip package."""

    def __init__(self, name: str, archive: zipfile.ZipFile, budget: Budget) -> None:
        self.name = name
        self.archive = archive
        self.budget = budget
        self.parts = frozenset(archive.namelist())

    @contextmanager
    def open(self, part: str) -> Iterator[io.BufferedReader]:
        """Open a part. Raises ValueError if there is none of that name, LeftOut if encrypted."""
        if part not in self.parts:
            raise ValueError(f"{self.name} has no part {part!r}; use an intact copy")
        info = self.archive.getinfo(part)
        if info.flag_bits & 1:
            raise LeftOut(ENCRYPTED)
        self.budget.check(info.file_size)
        with self.archive.open(info) as stream:
            yield io.BufferedReader(BudgetStream(f"{self.name}/{part}", stream, self.budget), CHUNK)

    def feed(self, part: str, target: Target) -> None:
        """Parse the XML of a part into a target. Raises ValueError if it is not well-formed."""
        with self.open(part) as stream:
            feed(f"{self.name}/{part}", stream, target)


@contextmanager
def zip_package(name: str, stream: io.BufferedReader, budget: Budget) -> Iterator[Package]:
    """Open a package. Raises ValueError if it is damaged."""
    with make_seekable(stream) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield Package(name, archive, budget)
        except (*DAMAGE, NotImplementedError, UnicodeDecodeError) as error:
            # zipfile raises the last two at an unknown compression method or an undecodable name.
            raise ValueError(f"{name} cannot be read: {error}; use an intact copy") from None


def feed(name: str, stream: BinaryIO, target: Target) -> None:
    """Parse XML into a target. Raises ValueError if it is not well-formed."""
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
    """A target that refuses a document type, which could declare exponentially growing entities."""

    def __init__(self, name: str, target: Target) -> None:
        self.name = name
        self.start, self.end, self.data = target.start, target.end, target.data

    def doctype(self, *_: Any) -> None:
        """Raise ValueError: no word processor writes one."""
        raise ValueError(f"{self.name} declares a document type, which no word processor writes")

    def close(self) -> None:
        """Do nothing, as lxml requires the method; the wrapped target holds the result."""


def resolve_path(folder: str, path: str) -> str:
    """Return the name of the part at a path relative to `folder` in a package."""
    return posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")
