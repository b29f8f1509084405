"""Reader of Word's .docx: its text with all tracked changes accepted.

A paragraph is a line, as in a .txt that Word saves; the cells of a table are separated by tabs.
Text boxes follow the paragraph they are anchored to; footnotes and endnotes follow the text, in the
order of their references. Headers, footers, comments, deleted and hidden text are left out.
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

# Deleted text, text moved away, codes of fields, the fallback form of a drawing, and ruby text (the
# small letters above a word that tell how it is pronounced).
SKIPPED = {"del", "moveFrom", "instrText", "Fallback", "rt"}
CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011"}
FRAMES = {"tc", "txbxContent", "footnote", "endnote"}  # elements that hold lines of their own
NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes"}


class Note(NamedTuple):
    """The key of a note: the kind of part that holds it, and its id in that part."""

    kind: str
    id: str


def docx_text(name: str, stream: io.BufferedReader, budget: Budget) -> str:
    """Return the text of a .docx. Raises ValueError if it is damaged or a bomb."""
    with zip_package(name, stream, budget) as package:
        documents = related_parts(package, "")
        if "officeDocument" not in documents:
            raise ValueError(f"{name} is not a .docx: it lists no document; use an intact copy")
        document = documents["officeDocument"]
        body = WordText()
        package.feed(document, body)
        parts = related_parts(package, document) if body.references else {}
        notes: dict[Note, str] = {}
        for kind in {note.kind for note in body.references} & parts.keys():
            note_text = WordText()
            package.feed(parts[kind], note_text)
            notes |= {Note(kind, id): text for id, text in note_text.notes.items()}
        return "\n".join([*body.lines, *(notes.get(note, "") for note in body.references)])


def related_parts(package: Package, part: str) -> dict[str, str]:
    """Return the parts, by kind, that a part or the package itself ("") is related to."""
    folder, _, file = part.rpartition("/")
    relationships_part = resolve_path(folder, f"_rels/{file}.rels")
    relationships = Relationships(folder)
    if relationships_part in package.parts:
        package.feed(relationships_part, relationships)
    return relationships.parts


class Relationships(Target):
    """Collects the targets in a relationships part, the first of each kind."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts: dict[str, str] = {}

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Add a relationship to a part inside of the package."""
        if tag.endswith("}Relationship") and attributes.get("TargetMode") != "External":
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.parts.setdefault(kind, resolve_path(self.folder, attributes.get("Target", "")))


class WordText(Paragraphs):
    """Collects the text of a document, or the notes in a part of footnotes or endnotes."""

    namespaces, skipped = KNOWN, SKIPPED

    def __init__(self) -> None:
        super().__init__()
        self.hidden = False  # in the current run
        self.joined = False  # the mark of the current paragraph is deleted
        self.deleted_rows: set[int] = set()  # their depths in nested tables
        self.carried: list[str] = []  # text of paragraphs that are joined with the next one
        self.references: list[Note] = []
        self.notes: dict[str, str] = {}
        self.note = ""

    @property
    def lines(self) -> list[str]:
        """Return the lines of the body."""
        return self.frames[0] + self.unfinished()

    def unfinished(self) -> list[str]:
        """Return the text, if any, of a last paragraph that has no next one to join."""
        return ["".join(self.carried)] if self.carried else []

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element."""
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
        """Handle the end of an element that is not skipped."""
        if name == "p":
            self.end_paragraph()
        elif name == "tr":
            self.end_row()
        elif name == "txbxContent":
            self.boxes += self.frames.pop()
        elif name in FRAMES:
            text = "\n".join([*self.frames.pop(), *self.unfinished()])
            self.carried = []
            if name == "tc" and self.rows:
                self.rows[-1].append(text)
            elif name != "tc":
                self.notes[self.note] = text.strip()

    def end_row(self) -> None:
        """Append a table row as a line, unless it was deleted."""
        depth = len(self.rows)
        cells = self.rows.pop()
        if depth not in self.deleted_rows:
            self.frames[-1].append("\t".join(cells))
        self.deleted_rows.discard(depth)

    def end_paragraph(self) -> None:
        """Append a paragraph as a line, followed by the text boxes anchored to it."""
        pieces = self.paragraphs.pop()
        if self.paragraphs:  # the one that ends is in a text box
            self.frames[-1].append("".join(pieces))
            return
        if self.joined:
            self.carried += pieces
            return
        self.frames[-1] += ["".join([*self.carried, *pieces]), *self.boxes]
        self.carried, self.boxes = [], []

    def data(self, text: str, /) -> None:
        """Append the characters of a text element."""
        if self.open_elements and self.open_elements[-1] == "t" and not self.skipping:
            self.write(text)

    def write(self, text: str) -> None:
        """Append text to the innermost paragraph, unless it is hidden."""
        if not self.hidden:
            super().write(text)


def word_attribute(attributes: dict[str, str], name: str) -> str:
    """Return an attribute in one of Word's namespaces, or ""."""
    return next((attributes[space + name] for space in WORD if space + name in attributes), "")
