import io
import zipfile
from pathlib import Path

import pytest

from stages.download.readers import ReadOptions, file_documents
from stages.download.tally import Tally

READING = ReadOptions(separator=None, text_column="text", encoding="utf-8")
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)
PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE html><html '
    'xmlns="http://www.w3.org/1999/xhtml"><head><title/><script src="x.js"/></head>'
    "<body>{}</body></html>"
)


def book(pages: dict[str, str], order: list[str], encoding: str = "utf-8", **parts: str) -> bytes:
    """A book with these pages, by path, and the order of their numbers."""
    kinds = {".xhtml": "application/xhtml+xml", ".png": "image/png"}
    items = ""
    for n, path in enumerate(pages):
        contents = ' properties="nav"' if path == "nav.xhtml" else ""
        kind = kinds[Path(path).suffix]
        items += f'<item id="{n}" href="{path}" media-type="{kind}"{contents}/>'
    spine = "".join(f'<itemref idref="{id}"/>' for id in order)
    opf = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest>'
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": f"{opf}<spine>{spine}</spine></package>",
    }
    files |= {f"OPS/{path.replace('%20', ' ')}": page for path, page in pages.items()} | parts
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data.encode(encoding))
    return content.getvalue()


def read(folder: Path, content: bytes, tally: Tally | None = None) -> list[str]:
    file = folder / "file"
    file.write_bytes(content)
    return [d.text for d in file_documents("a.epub", file, READING, tally or Tally())]


PAGES = {
    "nav.xhtml": PAGE.format("<nav>CONTENTS</nav>"),
    "text/two%20b.xhtml": PAGE.format("<h1>Two</h1><p>The second<br/>page&nbsp;– naïve.</p>"),
    "text/one.xhtml": PAGE.format("<h1>One</h1><p>A <i>line</i>.</p><p>Another<a id='x'/>.</p>"),
    "cover.png": "PICTURE",
    "empty.xhtml": PAGE.format("<img src='cover.png'/>"),
}


def test_the_pages_of_a_book_are_read_in_the_order_of_reading(tmp_path: Path) -> None:
    content = book(PAGES, ["4", "0", "2", "3", "1"])
    expected = "One\n\nA line.\n\nAnother.\n\nTwo\n\nThe second\npage – naïve."
    assert read(tmp_path, content) == [expected]


def test_a_book_with_encrypted_pages_is_left_out_and_one_with_encrypted_fonts_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def encryption(path: str) -> dict[str, str]:
        reference = f'<c:CipherReference URI="{path}"/>'
        namespaces = 'xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:c="x"'
        return {"META-INF/encryption.xml": f"<encryption {namespaces}>{reference}</encryption>"}

    tally = Tally()
    assert read(tmp_path, book(PAGES, ["1"], **encryption("OPS/font.otf")), tally)
    assert not tally.skipped
    locked = book(PAGES, ["2", "1"], **encryption("OPS/text/two%20b.xhtml"))
    assert not read(tmp_path, locked, tally)
    assert tally.skipped == {"encrypted file": 1}
    assert capsys.readouterr().err == "a.epub is left out: encrypted file\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (book(PAGES, ["9"]), "lists the page '9', but does not contain it"),
        (
            book({"a.xhtml": "x"}, ["0"], **{"META-INF/container.xml": "<container/>"}),
            "a.epub is not an .epub: no book is listed in it",
        ),
        (
            book({"a.xhtml": "x"}, ["0"], **{"META-INF/container.xml": "<container>"}),
            "a.epub/META-INF/container.xml is not well-formed XML",
        ),
        (book({"a.xhtml": PAGE.format("a" * (17 << 20))}, ["0"]), "has more than 16 MiB of markup"),
        (book({"a.xhtml": "<b>" * 3000}, ["0"]), "is nested too deep for HTML"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(ValueError, match=r"^a\.epub") as caught:
        read(tmp_path, content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a\.epub/OPS/a\.xhtml is not UTF-8 \(byte 3: 0xe9\)"):
        read(tmp_path, book({"a.xhtml": "caf\xe9"}, ["0"], encoding="cp1252"))


def test_a_book_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    content = book(PAGES, ["1", "2"])
    for size in range(0, len(content) - 1, max(1, len(content) // 60)):
        with pytest.raises(ValueError, match=r"^a\.epub"):
            read(tmp_path, content[:size])
