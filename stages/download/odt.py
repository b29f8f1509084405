"""Reader of OpenDocument's .odt: its text with all tracked changes accepted.

The layout is that of a .docx: a paragraph is a line, the cells of a table are separated by tabs,
text boxes follow the paragraph they are anchored to, footnotes and endnotes follow the text.
Headers, footers, comments, deleted and hidden text are left out.
"""

import io
import re

from stages.download.archives import Budget
from stages.download.paragraphs import Paragraphs
from stages.download.zip_package import Target, zip_package
from stages.lib.reasons import ENCRYPTED, LeftOut

NAMESPACE = "{urn:oasis:names:tc:opendocument:xmlns:"
KINDS = {
    NAMESPACE + kind + ":1.0}" for kind in ("office", "text", "table", "drawing", "svg-compatible")
}
TEXT = NAMESPACE + "text:1.0}"
SPACES = re.compile(r"[ \t\r\n]+")  # stand for one space; more spaces and tabs have elements

# Deleted text, comments, the numbers of notes, pictures and their descriptions, formulas, ruby text
# (small letters that tell how a word is pronounced) and whatever is not displayed.
SKIPPED = {
    *("tracked-changes", "annotation", "note-citation", "title", "desc", "binary-data", "object"),
    *("ruby-text", "hidden-text", "hidden-paragraph", "forms", "scripts"),
}
CELLS = {"table-cell", "covered-table-cell"}
MAX_SPACES = 1000  # that one element may stand for


def odt_text(name: str, stream: io.BufferedReader, budget: Budget) -> str:
    """Return the text of an .odt. Raises ValueError if it is damaged or a bomb."""
    with zip_package(name, stream, budget) as package:
        manifest = Encryption()
        if "META-INF/manifest.xml" in package.parts:
            package.feed("META-INF/manifest.xml", manifest)
        if manifest.is_encrypted:
            raise LeftOut(ENCRYPTED)
        body = OpenText()
        package.feed("content.xml", body)
        if not body.is_text:
            raise ValueError(
                f"{name} is not an .odt: it contains no text document; use one that does"
            )
        return "\n".join([*body.frames[0], *body.notes])


class Encryption(Target):
    """Detects an encrypted part in the manifest of a package."""

    is_encrypted = False

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Check an element of the manifest."""
        self.is_encrypted = self.is_encrypted or tag.endswith("}encryption-data")


class OpenText(Paragraphs):
    """Collects the text of a document."""

    namespaces, skipped = KINDS, SKIPPED

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.is_text = False

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element."""
        if name == "text" and self.open_elements[-1:] == ["body"]:
            self.is_text = True
        elif name in ("p", "h"):
            self.paragraphs.append([])
        elif name == "s":
            count = attributes.get(TEXT + "c", "1")
            self.write(" " * min(int(count) if count.isdecimal() else 1, MAX_SPACES))
        elif name == "tab":
            self.write("\t")
        elif name == "line-break":
            self.write("\n")
        elif name == "table-row":
            self.rows.append([])
        elif name in CELLS or name in ("text-box", "note-body"):
            self.frames.append([])

    def finish(self, name: str) -> None:
        """Handle the end of an element that is not skipped."""
        if name in ("p", "h"):
            self.end_paragraph()
        elif name == "table-row":
            self.frames[-1].append("\t".join(self.rows.pop()))
        elif name in CELLS:
            lines = self.frames.pop()
            if self.rows:
                self.rows[-1].append("\n".join(lines))
        elif name == "text-box":
            if self.paragraphs:
                self.boxes += self.frames.pop()
            else:  # anchored to a page
                lines = self.frames.pop()
                self.frames[-1] += lines
        elif name == "note-body":
            self.notes.append("\n".join(self.frames.pop()))

    def end_paragraph(self) -> None:
        """Append a paragraph as a line, followed by the text boxes anchored to it."""
        self.frames[-1].append("".join(self.paragraphs.pop()))
        if not self.paragraphs:
            self.frames[-1] += self.boxes
            self.boxes = []

    def data(self, text: str, /) -> None:
        """Append characters; white space becomes one space, none at the start of a line."""
        if self.skipping or not self.paragraphs:
            return
        collapsed = SPACES.sub(" ", text)
        pieces = self.paragraphs[-1]
        before = next((piece for piece in reversed(pieces) if piece), "\n")
        self.write(collapsed.lstrip(" ") if before[-1] in " \n" else collapsed)
