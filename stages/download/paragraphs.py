"""Base class of the XML handlers that turn word processor documents into lines of text."""

from abc import ABC, abstractmethod
from typing import ClassVar

from stages.download.zip_package import Target


class Paragraphs(Target, ABC):
    """Collects lines of text; a subclass for each format interprets its elements.

    `frames` is a stack of lists of lines: the body's, and those of each open cell, text box or note
    in it.
    """

    namespaces: ClassVar[set[str]]  # of the elements to interpret, each in braces
    skipped: ClassVar[set[str]]  # elements left out with everything in them

    def __init__(self) -> None:
        self.frames: list[list[str]] = [[]]
        self.paragraphs: list[list[str]] = []  # pieces of text of each open paragraph
        self.rows: list[list[str]] = []  # cells of each open table row
        self.boxes: list[str] = []  # lines of text boxes, until their paragraph ends
        self.open_elements: list[str] = []
        self.skipping = 0  # number of open elements, counted from the outermost skipped one

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Pass an element on to `begin`, unless it is inside a skipped one."""
        namespace, brace, name = tag.rpartition("}")
        name = name if namespace + brace in self.namespaces else ""
        if not self.skipping:
            self.begin(name, attributes)
        if self.skipping or name in self.skipped:
            self.skipping += 1
        self.open_elements.append(name)

    def end(self, tag: str, /) -> None:
        """Pass the end of an element on to `finish`, unless it is skipped."""
        name = self.open_elements.pop()
        if self.skipping:
            self.skipping -= 1
        else:
            self.finish(name)

    @abstractmethod
    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element; of a skipped element only the outermost comes here."""

    @abstractmethod
    def finish(self, name: str) -> None:
        """Handle the end of an element that is not skipped."""

    def write(self, text: str) -> None:
        """Append text to the innermost open paragraph."""
        if self.paragraphs and text:
            self.paragraphs[-1].append(text)
