"""The text of .docx, .odt and .rtf: one text, written three times, is read as the same."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import odfdo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.download import archives as compressed
from stages.download.archives import Budget
from stages.download.office import office_text
from stages.download.readers import Document, ReadOptions, file_documents
from stages.download.tally import Tally

READING = ReadOptions(separator=None, text_column="text", encoding="utf-8")
Read = Callable[..., str]

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
KINDS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ODF = "urn:oasis:names:tc:opendocument:xmlns"

TEXT = """Title
First line of the naïve song,\tand “more”
second line

Left\tRight
Ends here 😀"""


def zipped(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def relations(**targets: str) -> str:
    items = (
        f'<Relationship Id="{kind}" Type="{KINDS}/{kind}" Target="{target}"/>'
        for kind, target in targets.items()
    )
    return f'<Relationships xmlns="{RELATIONS}">{"".join(items)}</Relationships>'


def word(body: str, **notes: str) -> bytes:
    """A .docx with this body, and parts of notes, as Word lays them out."""
    root = f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><w:{{0}} xmlns:w="{W}" '
    root += f'xmlns:mc="{MC}">{{1}}</w:{{0}}>'
    parts = {
        "_rels/.rels": relations(officeDocument="word/document.xml"),
        "word/document.xml": root.format("document", f"<w:body>{body}</w:body>"),
        "word/_rels/document.xml.rels": relations(
            header="header1.xml", comments="comments.xml", **{kind: f"{kind}.xml" for kind in notes}
        ),
        "word/header1.xml": root.format("hdr", paragraph("HEADER")),
        "word/comments.xml": root.format("comments", paragraph("COMMENT")),
        "word/vbaProject.bin": "MACRO",
    }
    parts |= {f"word/{kind}.xml": root.format(kind, content) for kind, content in notes.items()}
    return zipped(parts)


def paragraph(*runs: str) -> str:
    return f"<w:p>{''.join(run if run.startswith('<') else w(run) for run in runs)}</w:p>"


def w(text: str, properties: str = "") -> str:
    """A run of text."""
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def opened(body: str) -> bytes:
    """An .odt with this body, as LibreOffice lays it out."""
    namespaces = " ".join(
        f'xmlns:{short}="{ODF}:{name}:1.0"'
        for short, name in {
            **{"office": "office", "text": "text", "table": "table"},
            **{"draw": "drawing", "svg": "svg-compatible"},
        }.items()
    )
    content = f"<office:document-content {namespaces}><office:body><office:text>{body}"
    manifest = f'<manifest:manifest xmlns:manifest="{ODF}:manifest:1.0"/>'
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "META-INF/manifest.xml": manifest,
            "Basic/Standard/Module1.xml": "MACRO",
            "styles.xml": "HEADER",
            "content.xml": f"{content}</office:text></office:body></office:document-content>",
        }
    )


def rich(body: str) -> bytes:
    r"""An .rtf with this body, in which characters beyond cp1252 are written as `\u`."""
    head = r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\froman Times;}{\f1\fcharset204 Arial;}}"
    head += r"{\colortbl;\red0;}{\stylesheet{\s1 Heading;}}{\*\generator Test;}{\info{\title T}}"
    return (head + r"{\header\pard HEADER\par}" + body + "}").encode("cp1252")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the one text in a file of some name and content."""

    def text(name: str, content: bytes, tally: Tally | None = None) -> str:
        file = tmp_path / "file"
        file.write_bytes(content)
        [document] = file_documents(name, file, READING, tally or Tally())
        assert document == Document(name, document.text, name)
        return document.text

    return text


def saved(document: "docx.document.Document | odfdo.Document") -> bytes:
    content = io.BytesIO()
    document.save(content)
    return content.getvalue()


# --- one text ------------------------------------------------------------------------------------


def test_what_python_docx_writes(read: Read) -> None:
    document = docx.Document()
    document.add_heading("Title", 0)
    line = document.add_paragraph("First line of the ")
    line.add_run("naïve").bold = True
    line.add_run(" song,\tand “more”\nsecond line")
    document.add_paragraph("")
    cells = document.add_table(1, 2).rows[0].cells
    cells[0].text, cells[1].text = "Left", "Right"
    document.add_paragraph("Ends here 😀")
    document.sections[0].header.paragraphs[0].text = "HEADER"
    document.sections[0].footer.paragraphs[0].text = "FOOTER"
    document.add_comment(line.runs[0], text="COMMENT", author="someone")
    assert read("a.docx", saved(document)) == TEXT


def test_what_odfdo_writes(read: Read) -> None:
    document = odfdo.Document("text")
    document.body.clear()
    document.body.append(odfdo.Header(1, "Title"))
    line = odfdo.Paragraph("First line of the naïve song,\tand “more”\nsecond line")
    line.insert_annotation(after="naïve", body="COMMENT", creator="someone")
    document.body.append(line)
    document.body.append(odfdo.Paragraph(""))
    table = odfdo.Table("T", width=2, height=1)
    table.set_values([["Left", "Right"]])
    document.body.append(table)
    document.body.append(odfdo.Paragraph("Ends here 😀"))
    assert read("a.odt", saved(document)) == TEXT


def test_what_word_writes_as_rtf(read: Read) -> None:
    body = r"\pard\plain\s1 Title\par First line of the na\'efve {\b song},\tab and \ldblquote "
    body += r"more\u8221\'94\line second line\par\par\trowd\cellx1\cellx2\pard\intbl Left\cell "
    body += "Right\\cell\\row\\pard Ends\r\n here \\u-10179?\\u-8704?\\par"
    assert read("a.rtf", rich(body)) == TEXT


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_line_comes_back(line: str) -> None:
    document, other = docx.Document(), odfdo.Document("text")
    document.add_paragraph(line)
    other.body.clear()
    other.body.append(odfdo.Paragraph(line))
    units = line.encode("utf-16-le")
    numbers = (int.from_bytes(units[i : i + 2], "little") for i in range(0, len(units), 2))
    escaped = "".join(rf"\u{n - 65536 if n > 32767 else n}?" for n in numbers)
    contents = {
        "a.docx": saved(document),
        "a.odt": saved(other),
        "a.rtf": rich(rf"\pard {escaped}\par"),
    }
    for name, content in contents.items():
        file = io.BufferedReader(io.BytesIO(content))  # type: ignore[type-var]
        assert office_text(name[1:], name, file, Budget(name, len(content))) == line, name


# --- tracked changes, hidden text, notes, boxes ---------------------------------------------------


def test_tracked_changes_in_word_are_read_as_accepted(read: Read) -> None:
    deleted = "<w:del><w:r><w:delText>DELETED</w:delText></w:r></w:del>"
    moved = f"<w:moveFrom>{w('MOVED AWAY')}</w:moveFrom>"
    arrived = f"<w:moveTo>{w(' moved')}</w:moveTo>"
    mark = "<w:pPr><w:rPr><w:del/></w:rPr></w:pPr>"
    row = f"<w:tr><w:trPr><w:del/></w:trPr><w:tc>{paragraph('GONE')}</w:tc></w:tr>"
    kept = f"<w:tr><w:tc>{paragraph('kept')}</w:tc></w:tr>"
    body = (
        paragraph("One", deleted, f"<w:ins>{w(' inserted')}</w:ins>", moved, arrived)
        + paragraph(mark, "joined ")
        + paragraph("to the next")
        + paragraph(mark, deleted)
        + f"<w:tbl>{row}{kept}</w:tbl>"
        + paragraph(mark, "last")
    )
    expected = "One inserted moved\njoined to the next\nkept\nlast"
    assert read("a.docx", word(body)) == expected


def test_tracked_changes_in_opendocument_are_read_as_accepted(read: Read) -> None:
    region = "<text:changed-region><text:deletion><text:p>DELETED</text:p></text:deletion>"
    changes = f"<text:tracked-changes>{region}</text:changed-region></text:tracked-changes>"
    body = '<text:p>One<text:change text:change-id="c1"/><text:change-start/> inserted</text:p>'
    assert read("a.odt", opened(changes + body)) == "One inserted"


def test_tracked_changes_in_rtf_are_read_as_accepted(read: Read) -> None:
    body = (
        r"One{\deleted\revauthdel1 DELETED {\b MORE\par}}{\revised  inserted}\deleted x\deleted0 !"
    )
    assert read("a.rtf", rich(body + r"\par")) == "One inserted!"


def test_what_is_not_shown_is_left_out(read: Read) -> None:
    field = "<w:r><w:instrText>HYPERLINK x</w:instrText></w:r>"
    body = paragraph("a", w("HIDDEN", "<w:vanish/>"), w("b", '<w:vanish w:val="0"/>'), field, "c")
    assert read("a.docx", word(body)) == "abc"
    body = "<text:p>a<office:annotation><text:p>COMMENT</text:p></office:annotation>b"
    body += "<draw:frame><draw:image/><svg:title>PICTURE</svg:title></draw:frame>c</text:p>"
    assert read("a.odt", opened(body)) == "abc"
    body = r"a{\v HIDDEN}b{\field{\*\fldinst HYPERLINK x}{\fldrslt c}}{\*\unknown U}"
    body += r"{\pict\pngblip 89504e}{\pict\bin4 }{\}}{\*\annotation COMMENT}"
    assert read("a.rtf", rich(body)) == "abc"


def test_notes_follow_the_text_in_its_order(read: Read) -> None:
    def reference(kind: str, number: int) -> str:
        return f'<w:r><w:{kind}Reference w:id="{number}"/></w:r>'

    def note(kind: str, number: int, *texts: str) -> str:
        content = "".join(map(paragraph, texts))
        return f'<w:{kind} w:id="{number}">{content}</w:{kind}>'

    body = paragraph("One", reference("footnote", 2), " two", reference("endnote", 1))
    body += paragraph(
        "three", reference("footnote", 1), f"<w:del>{reference('footnote', 3)}</w:del>"
    )
    footnotes = note("footnote", 0, "SEPARATOR") + note("footnote", 1, " of three")
    footnotes += note("footnote", 2, " of one", "more of it") + note("footnote", 3, "DELETED")
    content = word(body, footnotes=footnotes, endnotes=note("endnote", 1, " of two"))
    expected = "One two\nthree\nof one\nmore of it\nof two\nof three"
    assert read("a.docx", content) == expected

    def inline(*lines: str) -> str:
        citation = "<text:note-citation>1</text:note-citation>"
        paragraphs = "".join(f"<text:p>{line}</text:p>" for line in lines)
        return f"<text:note>{citation}<text:note-body>{paragraphs}</text:note-body></text:note>"

    body = f"<text:p>One{inline('of one', 'more of it')} two{inline('of two')}</text:p>"
    body += f"<text:p>three{inline('of three')}</text:p>"
    assert read("a.odt", opened(body)) == expected

    mark = r"{\super\chftn}"
    body = rf"One{mark}{{\footnote {mark} of one\par more of it\par}} two{{\footnote\ftnalt {mark} "
    body += rf"of two}}\par three{{\footnote {mark} of three}}\par"
    assert read("a.rtf", rich(body)) == expected


def test_text_boxes_follow_their_paragraph(read: Read) -> None:
    box = f"<w:txbxContent>{paragraph('in a')}{paragraph('box')}</w:txbxContent>"
    both = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
    body = paragraph("before ", f"<w:r>{both}</mc:AlternateContent></w:r>", "after")
    assert read("a.docx", word(body + paragraph("end"))) == "before after\nin a\nbox\nend"
    frame = "<draw:frame><draw:text-box><text:p>in a</text:p><text:p>box</text:p></draw:text-box>"
    body = f"<text:p>before {frame}</draw:frame>after</text:p><text:p>end</text:p>"
    assert read("a.odt", opened(body)) == "before after\nin a\nbox\nend"
    shape = r"{\shp{\*\shpinst{\sp{\sn a}{\sv 1}}{\shptxt in a\par box\par}}{\shprslt AGAIN}}"
    body = rf"before {shape}after\par end\par"
    assert read("a.rtf", rich(body)) == "before after\nin a\nbox\nend"


def test_paragraphs_in_a_cell_stay_lines_and_tables_in_tables_are_rows(read: Read) -> None:
    def cell(*content: str) -> str:
        return f"<w:tc>{''.join(content)}</w:tc>"

    inner = f"<w:tbl><w:tr>{cell(paragraph('x'))}{cell(paragraph('y'))}</w:tr></w:tbl>"
    body = (
        f"<w:tbl><w:tr>{cell(paragraph('a'), inner, paragraph('b'))}{cell(paragraph('c'))}</w:tr>"
    )
    assert read("a.docx", word(body + "</w:tbl>")) == "a\nx\ty\nb\tc"


def test_white_space_in_opendocument_is_one_space_but_where_it_has_elements(read: Read) -> None:
    body = '<text:p>\n  a \t b<text:s text:c="2"/> c<text:span> d</text:span> <text:tab/>e</text:p>'
    assert read("a.odt", opened(body)) == "a b  c d \te"
    body = '<text:p>a<text:s text:c="999999999999"/></text:p>'
    assert len(read("a.odt", opened(body))) == 1001


def test_strict_open_xml_is_read_as_well(read: Read) -> None:
    strict = "http://purl.oclc.org/ooxml/wordprocessingml/main"
    document = f'<w:document xmlns:w="{strict}"><w:body>{paragraph("text")}</w:body></w:document>'
    relation = relations(officeDocument="/doc/main.xml")
    content = zipped({"_rels/.rels": relation, "doc/main.xml": document})
    assert read("a.docx", content) == "text"


def test_the_code_page_of_a_font_decodes_its_bytes(read: Read) -> None:
    body = r"{\f1 \'cf\'f0\'e8}\f0\'e9{\f1\'e2\'e5\'f2}\uc0\u8364 \uc2\u8364 ??.\par"
    assert read("a.rtf", rich(body)) == "Приéвет€€."


def test_a_separator_cuts_into_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.docx"
    file.write_bytes(word(paragraph("one") + paragraph("***") + paragraph("two")))
    how = ReadOptions(separator="\n***\n", text_column="text", encoding="utf-8")
    found = list(file_documents("a.docx", file, how, Tally()))
    assert [(d.id, d.text) for d in found] == [("a.docx#0", "one"), ("a.docx#1", "two")]


def test_word_processor_files_are_read_out_of_archives(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/b.docx", word(paragraph("one")))
        archive.writestr("c.rtf", rich("two"))
        archive.writestr("~$b.docx", b"Word's own, while b.docx is open")
        archive.writestr("d.docm", word(paragraph("with macros")))
    file = tmp_path / "x.zip"
    file.write_bytes(content.getvalue())
    tally = Tally()
    found = list(file_documents("x.zip", file, READING, tally))
    assert [(d.id, d.text) for d in found] == [("x.zip/a/b.docx", "one"), ("x.zip/c.rtf", "two")]
    assert tally.skipped == {"hidden file": 1, "file ending in .docm": 1}


# --- refused, or left out ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".docx", ".odt", ".rtf"])
def test_a_file_cut_short_is_refused_wherever(read: Read, kind: str) -> None:
    content = {
        ".docx": word(paragraph(TEXT)),
        ".odt": opened(f"<text:p>{TEXT}</text:p>"),
        ".rtf": rich("text " * 20),
    }[kind]
    for size in range(0, len(content) - 1, max(1, len(content) // 60)):
        with pytest.raises(ValueError, match=rf"^a\{kind}"):
            read(f"a{kind}", content[:size])


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BILLION = f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY l11 SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("doctype", [BILLION, OUTSIDE])
def test_entities_are_neither_expanded_nor_followed(read: Read, doctype: str) -> None:
    document = f'<w:document xmlns:w="{W}">{paragraph("&l11;")}</w:document>'
    relation = relations(officeDocument="d.xml")
    content = zipped({"_rels/.rels": relation, "d.xml": doctype + document})
    with pytest.raises(ValueError, match=r"^a\.docx/d\.xml declares a document type"):
        read("a.docx", content)
    content = zipped({"content.xml": f"{doctype}<x>&l11;</x>"})
    with pytest.raises(ValueError, match=r"^a\.odt/content\.xml declares a document type"):
        read("a.odt", content)


def test_a_bomb_is_noticed_before_it_goes_off(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(compressed, "BOMB_RATIO", 20)
    body = paragraph("la la ") * 400_000
    bombs = {"a.docx": word(body), "a.odt": opened("<text:p>la la</text:p>" * 400_000)}
    for name, content in bombs.items():
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"^{name} has [\d,]+ bytes and unpacks to more"):
            read(name, content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


def test_a_package_that_understates_what_it_holds_is_refused(read: Read) -> None:
    content = bytearray(word(paragraph("la la " * 1000)))
    at = content.index(b"word/document.xml", content.index(b"PK\x01\x02")) - 46
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"^a\.docx"):
        read("a.docx", bytes(content))


def test_encrypted_files_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)
    name = f"{ODF}:manifest:1.0"
    manifest = f'<m:manifest xmlns:m="{name}"><m:file-entry><m:encryption-data/></m:file-entry>'
    contents = {
        "a.docx": ole + "EncryptedPackage".encode("utf-16-le") + bytes(500),
        "b.odt": zipped({"META-INF/manifest.xml": manifest + "</m:manifest>", "content.xml": "?"}),
    }
    tally = Tally()
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
        assert not list(file_documents(file, tmp_path / file, READING, tally))
    assert tally.skipped == {"encrypted file": 2}
    said = "a.docx is left out: encrypted file\nb.odt is left out: encrypted file\n"
    assert capsys.readouterr().err == said
    (tmp_path / "c").write_bytes(ole)
    with pytest.raises(ValueError, match=r"^c\.docx is a \.doc, whatever its name says"):
        list(file_documents("c.docx", tmp_path / "c", READING, tally))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.docx", zipped({"a.txt": "x"}), "is not a .docx: it lists no document"),
        (
            "a.docx",
            zipped({"_rels/.rels": relations(officeDocument="d.xml")}),
            "has no part 'd.xml'",
        ),
        ("a.docx", word("<w:p>"), "word/document.xml is not well-formed XML"),
        ("a.odt", zipped({"content.xml": "<x/>"}), "is not an .odt: it contains no text document"),
        ("a.rtf", b"plain", "is not an .rtf, it begins with b'plain'"),
        ("a.rtf", b"{\\rtf1" + b"{" * 2000 + b"}" * 2001, "has groups nested deeper than 1,000"),
        (
            "a.rtf",
            rb"{\rtf1\ansicpg1252 \'81}",
            "has a byte 0x81 that is not valid in its code page, cp1252",
        ),
        ("a.rtf", rb"{\rtf1\ansicpg31337 x}", "is in the unknown code page 31337"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(
    read: Read, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        read(name, content)
    assert str(caught.value).startswith(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
