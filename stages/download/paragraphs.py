"""The lines of a document written with a word processor, as its XML is read."""

from abc import ABC, abstractmethod
from typing import ClassVar

from stages.download.zip_package import Target


class Paragraphs(Target, ABC):
    """Collects lines; a format says in `begin` and `finish` what its elements mean.

    `frames` are the lines of the body and of whatever is open in it: a cell, a text box, a note.
    """

    namespaces: ClassVar[set[str]]  # of elements that mean something, each in braces
    skipped: ClassVar[set[str]]  # elements left out with all that is in them

    def __init__(self) -> None:
        self.frames: list[list[str]] = [[]]
        self.paragraphs: list[list[str]] = []  # the pieces of those that are open
        self.rows: list[list[str]] = []  # the cells of those that are open
        self.boxes: list[str] = []  # lines that wait for the end of their paragraph
        self.open_elements: list[str] = []
        self.skipping = 0  # elements that are open, from the first one skipped on

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Take note of an element that begins."""
        namespace, brace, name = tag.rpartition("}")
        name = name if namespace + brace in self.namespaces else ""
        if not self.skipping:
            self.begin(name, attributes)
        if self.skipping or name in self.skipped:
            self.skipping += 1
        self.open_elements.append(name)

    def end(self, tag: str, /) -> None:
        """Take note of an element that ends."""
        name = self.open_elements.pop()
        if self.skipping:
            self.skipping -= 1
        else:
            self.finish(name)

    @abstractmethod
    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Take note of the beginning of an element that is not skipped."""

    @abstractmethod
    def finish(self, name: str) -> None:
        """Take note of the end of an element that is not skipped."""

    def write(self, text: str) -> None:
        """Add to the innermost paragraph."""
        if self.paragraphs and text:
            self.paragraphs[-1].append(text)
