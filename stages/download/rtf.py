r"""Reader of Rich Text Format (.rtf): its text with all tracked changes accepted.

The layout is that of a .docx: a paragraph is a line, the cells of a table are separated by tabs,
footnotes and endnotes follow the text. Headers, footers, comments, deleted and hidden text,
pictures and embedded objects are left out.

RTF is a stream of groups in braces, control words such as `\par` and bytes of text in a code page
(Microsoft's specification 1.9.1). A group that begins with a destination, such as the font table,
holds no text of the document. The known destinations are listed below; all others begin with `\*`.
"""

import codecs
import io
import re
from dataclasses import dataclass, field, replace

MAX_RTF_BYTES = 64 << 20  # read in one piece
MAX_DEPTH = 1000  # of groups; Word itself stops far earlier

TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?[0-9]{1,10})? ?"  # a control word, its number, the space that ends it
    rb"|\\'([0-9a-fA-F]{2})"  # a byte in hexadecimal
    rb"|\\([^a-zA-Z'])"  # a control symbol
    rb"|([{}])"
    rb"|([^\\{}\r\n\0]+)"  # text
    rb"|[\r\n\0]+|\\"  # ignored
)

# Destinations that hold no text of the document and need no `\*`.
DESTINATIONS = set(
    b"annotation atnauthor atndate atnicn atnid atnparent atnref atntime author buptim "
    b"category colortbl comment company creatim doccomm fldinst fname fontemb fontfile "
    b"fonttbl footer footerf footerl footerr ftncn ftnsep ftnsepc header headerf headerl "
    b"headerr hlinkbase info keywords listpicture listtext manager nextfile nonesttables "
    b"nonshppict objdata operator panose pict pntext pntxta pntxtb printim private revtim rxe "
    b"shprslt stylesheet subject tc template title txe xe".split()
)
NOTE = b"footnote"  # endnotes too
SHAPE, BOX = b"shpinst", b"shptxt"  # a drawing, and the text box that it may be
DELETED = {b"deleted", b"mvf"}  # mvf: moved from here
CHARACTERS = {
    **{b"par": "\n", b"line": "\n", b"sect": "\n", b"page": "\n", b"column": "\n", b"row": "\n"},
    **{b"nestrow": "\n", b"tab": "\t", b"cell": "\t", b"nestcell": "\t"},
    **{b"emdash": "—", b"endash": "–", b"bullet": "•", b"emspace": "\u2003", b"enspace": "\u2002"},
    **{b"lquote": "‘", b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”", b"qmspace": "\u2005"},
}
SYMBOLS = {b"~": "\xa0", b"_": "\u2011", b"\r": "\n", b"\n": "\n", b"\t": "\t"}
SYMBOLS |= {byte: byte.decode() for byte in (b"\\", b"{", b"}")}

# Code pages by the character set of a font (`\fcharset`).
CHARSETS = {
    **{77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5"},
    **{161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257"},
    **{204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850"},
}
CODE_PAGES = {b"ansi": "cp1252", b"mac": "mac_roman", b"pc": "cp437", b"pca": "cp850"}

OTHER_CODE_PAGES = {10000: "mac_roman", 20127: "ascii", 28591: "latin-1", 65001: "utf-8"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """The state that lasts until the end of a group."""

    destination: bytes = b""  # if set, the content is not text of the document
    deleted: bool = False
    hidden: bool = False
    fallback_bytes: int = 1  # after each `\u` character, for readers without Unicode
    font: int | None = None
    out: list[str] = field(default_factory=list)

    @property
    def is_shown(self) -> bool:
        """Return True if text in the group is text of the document."""
        return not (self.destination or self.deleted or self.hidden)


def rtf_text(name: str, stream: io.BufferedReader) -> str:
    """Return the text of an .rtf. Raises ValueError if it is not one, too large or truncated."""
    content = stream.read(MAX_RTF_BYTES + 1)
    if len(content) > MAX_RTF_BYTES:
        raise ValueError(
            f"{name} has more than {MAX_RTF_BYTES >> 20} MiB, which would take too much memory; "
            "save it without its pictures, or as .txt"
        )
    if not content.lstrip().startswith(b"{\\rtf"):
        raise ValueError(f"{name} is not an .rtf, it begins with {content[:8]!r}")
    return RichText(name).read(content.lstrip())


class RichText:
    """A parser that reads a document token by token."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = Group()
        self.stack: list[Group] = []
        self.body = self.group.out
        self.notes: list[list[str]] = []
        self.boxes: list[list[str]] = []  # text boxes, until their paragraph ends
        self.code_page = "cp1252"
        self.font_code_pages: dict[int, str] = {}
        self.default_font: int | None = None
        self.starred = False  # the last token was `\*`
        self.to_skip = 0  # fallback bytes still to come after a `\u` character
        self.bytes = bytearray()  # text to decode: a character may take two bytes
        self.units: list[int] = []  # UTF-16 code units to decode

    def read(self, content: bytes) -> str:
        """Parse a document and return its text. Raises ValueError if it is truncated."""
        at = 0
        while at < len(content):
            token = TOKEN.match(content, at)
            assert token is not None  # any byte is matched
            at = token.end()
            word, number, code, symbol, brace, text = token.groups()
            if code or text:
                self.handle_text(bytes.fromhex(code.decode()) if code else text)
                continue
            if word == b"u":
                self.handle_code_unit(int(number or 0))
                continue
            if word is None and symbol is None and brace is None:
                continue
            self.flush()
            self.to_skip = 0
            if word == b"bin":  # that many bytes of a picture, which are not RTF
                at += max(0, int(number or 0))
            elif word:
                self.handle_word(word, number)
            elif symbol:
                self.handle_symbol(symbol)
            elif brace == b"{":
                self.begin_group()
            else:
                self.end_group()
                if not self.stack:
                    return self.text()
        raise ValueError(f"{self.name} is truncated: its last group does not end")

    def text(self) -> str:
        """Return the text of the body, then the text boxes left over, then the notes."""
        body, *boxes = ("".join(out).removesuffix("\n") for out in (self.body, *self.boxes))
        return "\n".join([body, *boxes, *("".join(note).strip() for note in self.notes)])

    def begin_group(self) -> None:
        """Push the state of the enclosing group."""
        if len(self.stack) == MAX_DEPTH:
            raise ValueError(f"{self.name} has groups nested deeper than {MAX_DEPTH:,}")
        self.stack.append(self.group)
        self.starred = False

    def end_group(self) -> None:
        """Restore the state of the enclosing group."""
        self.group = self.stack.pop()
        self.starred = False

    def handle_symbol(self, symbol: bytes) -> None:
        """Handle a control symbol."""
        if symbol == b"*":
            self.starred = True
        elif symbol in SYMBOLS:
            self.write(SYMBOLS[symbol])

    def handle_word(self, word: bytes, number: bytes | None) -> None:
        """Handle a control word and its number."""
        value = int(number) if number else None
        starred, self.starred = self.starred, False
        if word == NOTE and self.group.is_shown:
            self.notes.append([])
            self.group = replace(self.group, out=self.notes[-1])
        elif word == BOX and self.group.destination == SHAPE:
            self.boxes.append([])
            self.group = replace(self.group, destination=b"", out=self.boxes[-1])
        elif (starred and word != b"nesttableprops") or word in DESTINATIONS:
            self.group = replace(self.group, destination=self.group.destination or word)
        elif word in CHARACTERS:
            self.write_character(word)
        elif word in DELETED:
            self.group = replace(self.group, deleted=value != 0)
        elif word == b"v":
            self.group = replace(self.group, hidden=value != 0)
        elif word == b"plain":
            self.group = replace(self.group, hidden=False, font=self.default_font)
        elif word == b"uc":
            self.group = replace(self.group, fallback_bytes=min(max(value or 0, 0), 8))
        elif word == b"f":
            self.group = replace(self.group, font=value)
        elif word == b"deff":
            self.default_font = value
        elif word == b"fcharset" and self.group.font is not None and value in CHARSETS:
            self.font_code_pages[self.group.font] = CHARSETS[value]
        elif word in CODE_PAGES:
            self.code_page = CODE_PAGES[word]
        elif word == b"ansicpg":
            self.code_page = self.known_code_page(value)

    def write_character(self, word: bytes) -> None:
        """Write the character that a control word stands for."""
        out = self.group.out
        if word in (b"row", b"nestrow") and self.group.is_shown and out[-1:] == ["\t"]:
            out.pop()  # the tab after the last cell
        self.write(CHARACTERS[word])
        if CHARACTERS[word] == "\n" and out is self.body:
            for box in self.boxes:
                out.append("".join(box).removesuffix("\n") + "\n")
            self.boxes = []

    def known_code_page(self, number: int | None) -> str:
        """Return Python's name of a code page. Raises ValueError if Python does not have it."""
        if not number:  # some programs write 0 for an unknown code page
            return self.code_page
        try:
            return codecs.lookup(OTHER_CODE_PAGES.get(number, f"cp{number}")).name
        except LookupError:
            raise ValueError(f"{self.name} is in the unknown code page {number}") from None

    def handle_text(self, content: bytes) -> None:
        r"""Handle bytes of text, and skip the fallback bytes after a `\u` character."""
        skipped = min(self.to_skip, len(content))
        self.to_skip -= skipped
        content = content[skipped:]
        if content and self.group.is_shown:
            self.flush_units()
            self.bytes += content

    def handle_code_unit(self, number: int) -> None:
        r"""Handle a `\u` character: a UTF-16 code unit, as a signed 16-bit number."""
        self.flush_bytes()
        self.to_skip = self.group.fallback_bytes
        if self.group.is_shown and number:
            self.units.append(number & 0xFFFF)

    def flush(self) -> None:
        """Decode and write pending bytes and code units."""
        self.flush_bytes()
        self.flush_units()

    def flush_bytes(self) -> None:
        """Decode and write pending bytes. Raises ValueError if they are not in the code page."""
        if not self.bytes:
            return
        font = self.default_font if self.group.font is None else self.group.font
        code_page = self.font_code_pages.get(-1 if font is None else font, self.code_page)
        try:
            self.write(self.bytes.decode(code_page))
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(
                f"{self.name} has a byte 0x{byte:02x} that is not valid in its code page, "
                f"{code_page}; save it again as .rtf, or as .txt"
            ) from None
        self.bytes.clear()

    def flush_units(self) -> None:
        """Decode and write pending UTF-16 code units; lone surrogates are kept."""
        if self.units:
            packed = b"".join(unit.to_bytes(2, "little") for unit in self.units)
            self.write(packed.decode("utf-16-le", "surrogatepass"))
            self.units.clear()

    def write(self, text: str) -> None:
        """Append text to the body, note or text box that the group belongs to."""
        if self.group.is_shown:
            self.group.out.append(text)
