"""Word's .docx to its text: what stands in it with all tracked changes accepted.

A paragraph is a line, as in a .txt that Word saves; the cells of a table are separated by tabs.
Text boxes follow the paragraph they are anchored to; footnotes and endnotes follow the text, in its
order. Headers, footers, comments, deleted and hidden text are left out.
"""

import io
from typing import NamedTuple

from stages.download.archives import Budget
from stages.download.paragraphs import Paragraphs
from stages.download.zip_package import Package, Target, resolve_path, zip_package

WORD = (
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}",
    "{http://purl.oclc.org/ooxml/wordprocessingml/main}",
)
MATH = (
    "{http://schemas.openxmlformats.org/officeDocument/2006/math}",
    "{http://purl.oclc.org/ooxml/officeDocument/math}",
)
COMPATIBILITY = ("{http://schemas.openxmlformats.org/markup-compatibility/2006}",)
KNOWN = {*WORD, *MATH, *COMPATIBILITY}

# What was deleted or moved away, what a field is computed from, the second form of a drawing, the
# small letters above a word that tell how it is pronounced.
SKIPPED = {"del", "moveFrom", "instrText", "Fallback", "rt"}
CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011"}
FRAMES = {"tc", "txbxContent", "footnote", "endnote"}  # elements that hold lines of their own
NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes"}


class Note(NamedTuple):
    """Where a note stands: the kind of part it is in, and its id there."""

    kind: str
    id: str


def docx_text(name: str, stream: io.BufferedReader, budget: Budget) -> str:
    """Return the text of a .docx. Raises ValueError when it is damaged or a bomb."""
    with zip_package(name, stream, budget) as package:
        documents = related_parts(package, "")
        if "officeDocument" not in documents:
            raise ValueError(f"{name} is no .docx: it names no document; use one that is whole")
        document = documents["officeDocument"]
        body = WordText()
        package.feed(document, body)
        parts = related_parts(package, document) if body.references else {}
        notes: dict[Note, str] = {}
        for kind in {note.kind for note in body.references} & parts.keys():
            found = WordText()
            package.feed(parts[kind], found)
            notes |= {Note(kind, id): text for id, text in found.notes.items()}
        return "\n".join([*body.lines, *(notes.get(note, "") for note in body.references)])


def related_parts(package: Package, part: str) -> dict[str, str]:
    """Return the parts that a part, or the package itself, refers to, by kind."""
    folder, _, file = part.rpartition("/")
    relations = resolve_path(folder, f"_rels/{file}.rels")
    found = Relations(folder)
    if relations in package.parts:
        package.feed(relations, found)
    return found.parts


class Relations(Target):
    """Collects the parts that a file of relationships names."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts: dict[str, str] = {}

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Take note of a relationship inside of the package."""
        if tag.endswith("}Relationship") and attributes.get("TargetMode") != "External":
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.parts.setdefault(kind, resolve_path(self.folder, attributes.get("Target", "")))


class WordText(Paragraphs):
    """Collects the text of a document, or of the notes in a part of notes."""

    namespaces, skipped = KNOWN, SKIPPED

    def __init__(self) -> None:
        super().__init__()
        self.hidden = self.joined = False
        self.deleted_rows: set[int] = set()  # how deep in tables they are
        self.begun: list[str] = []  # what a paragraph whose mark was deleted adds to the next one
        self.references: list[Note] = []
        self.notes: dict[str, str] = {}
        self.note = ""

    @property
    def lines(self) -> list[str]:
        """The lines of the body."""
        return self.frames[0] + self.unfinished()

    def unfinished(self) -> list[str]:
        """Return the line that no next paragraph went on with, if there is one."""
        return ["".join(self.begun)] if self.begun else []

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Take note of the beginning of an element that is not skipped."""
        parent = self.open_elements[-1] if self.open_elements else ""
        if name == "p":
            self.paragraphs.append([])
            self.joined = False
        elif name == "r":
            self.hidden = False
        elif name == "vanish" and parent == "rPr" and self.open_elements[-2:-1] == ["r"]:
            self.hidden = word_attribute(attributes, "val") not in ("0", "false", "off")
        elif name in CHARACTERS and parent == "r":
            self.write(CHARACTERS[name])
        elif name in ("del", "moveFrom") and parent == "rPr" and "pPr" in self.open_elements[-2:-1]:
            self.joined = True
        elif name == "del" and parent == "trPr":
            self.deleted_rows.add(len(self.rows))
        elif name == "tr":
            self.rows.append([])
        elif name in FRAMES:
            self.frames.append([])
            if name in ("footnote", "endnote"):
                self.note = word_attribute(attributes, "id")
        elif name in NOTES and not self.hidden:
            self.references.append(Note(NOTES[name], word_attribute(attributes, "id")))

    def finish(self, name: str) -> None:
        """Take note of the end of an element that is not skipped."""
        if name == "p":
            self.end_paragraph()
        elif name == "tr":
            self.end_row()
        elif name == "txbxContent":
            self.boxes += self.frames.pop()
        elif name in FRAMES:
            text = "\n".join([*self.frames.pop(), *self.unfinished()])
            self.begun = []
            if name == "tc" and self.rows:
                self.rows[-1].append(text)
            elif name != "tc":
                self.notes[self.note] = text.strip()

    def end_row(self) -> None:
        """Add a row as a line, unless it was deleted."""
        depth = len(self.rows)
        cells = self.rows.pop()
        if depth not in self.deleted_rows:
            self.frames[-1].append("\t".join(cells))
        self.deleted_rows.discard(depth)

    def end_paragraph(self) -> None:
        """Add a line; text boxes in it come after it."""
        pieces = self.paragraphs.pop()
        if self.paragraphs:  # of a text box
            self.frames[-1].append("".join(pieces))
            return
        if self.joined:
            self.begun += pieces
            return
        self.frames[-1] += ["".join([*self.begun, *pieces]), *self.boxes]
        self.begun, self.boxes = [], []

    def data(self, text: str, /) -> None:
        """Take characters that are shown."""
        if self.open_elements and self.open_elements[-1] == "t" and not self.skipping:
            self.write(text)

    def write(self, text: str) -> None:
        """Add to the innermost paragraph what is shown."""
        if not self.hidden:
            super().write(text)


def word_attribute(attributes: dict[str, str], name: str) -> str:
    """Return the attribute of that name, or ""."""
    return next((attributes[space + name] for space in WORD if space + name in attributes), "")
