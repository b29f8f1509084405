import io
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import matplotlib
import psutil
import pytest
from matplotlib.figure import Figure

from stages.download import pdf
from stages.download.readers import Document, ReadOptions, file_documents
from stages.download.tally import Tally

ROOT = Path(__file__).parents[3]
READING = ReadOptions(separator=None, text_column="text", encoding="utf-8")


def stream(content: str, entries: str = "") -> str:
    return f"<<{entries}/Length {len(content)}>>stream\n{content}\nendstream"


def made_of(*objects: str, trailer: str = "") -> bytes:
    """A PDF of these objects, from number 1 on; the first one is the catalog."""
    content = b"%PDF-1.7\n"
    places = []
    for number, each in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{each}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R{trailer}>>"
    )
    return content + f"{end}\nstartxref\n{len(content)}\n%%EOF\n".encode("latin-1")


FONT = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"


def pages(*contents: str, forms: tuple[str, ...] = (), trailer: str = "") -> bytes:
    """A PDF whose pages have these contents."""
    first = 4 + len(forms)
    kids = " ".join(f"{first + 2 * n} 0 R" for n in range(len(contents)))
    names = "".join(f"/X{n} {4 + n} 0 R" for n in range(len(forms)))
    resources = f"/Resources<</Font<</F 3 0 R>>/XObject<<{names}>>>>"
    kind = f"/Type/XObject/Subtype/Form/BBox[0 0 600 800]{resources}"
    objects = ["<</Type/Catalog/Pages 2 0 R>>"]
    objects.append(f"<</Type/Pages/Kids[{kids}]/Count {len(contents)}/MediaBox[0 0 600 800]>>")
    objects += [FONT, *(stream(form, kind) for form in forms)]
    for n, content in enumerate(contents):
        page = f"<</Type/Page/Parent 2 0 R{resources}/Contents {first + 2 * n + 1} 0 R>>"
        objects += [page, stream(content)]
    return made_of(*objects, trailer=trailer)


def show(*lines: str) -> str:
    """Content that shows these lines, one below the other."""
    return "BT /F 12 Tf 14 TL 50 700 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"


def read(folder: Path, content: bytes, tally: Tally | None = None) -> list[str]:
    file = folder / "file"
    file.write_bytes(content)
    return [d.text for d in file_documents("a.pdf", file, READING, tally or Tally())]


def test_the_lines_of_all_pages_are_one_text(tmp_path: Path) -> None:
    content = pages(show("The first line,", "a na\xefve one"), "", show("of \x93two\x94 pages"))
    assert read(tmp_path, content) == ["The first line,\na naïve one\nof “two” pages\n"]


def test_what_matplotlib_writes_and_words_cut_at_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "figure.pdf"
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure = Figure()
        figure.text(0.1, 0.5, "A naïve “exam-\nple”, Привет")
        figure.savefig(file)
    assert read(tmp_path, file.read_bytes()) == ["A naïve “example”, Привет\n"]


def test_a_pdf_in_an_archive_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b/a.pdf", pages(show("text")))
    name = "x.zip/b/a.pdf"
    assert list(file_documents("x.zip", file, READING, Tally())) == [Document(name, "text\n", name)]


# What pypdf wrote for a password of RC4 with 40 bits; the page need not be encrypted itself.
LOCK = (
    "/Encrypt<</V 1/R 2/Length 40/P 4294967292/Filter/Standard"
    "/O<e5a8d2687bd9d0cff946b7ac55f51081dcf0d116554c4bfcb0a5e446f69ea48a>"
    "/U<d5f27ab895a28083aa2e9561a3880342e5b2c96d567abc8c4605b0753aff5bca>>>"
    "/ID[<feb6fd22ad4976307467097c37c10f78><feb6fd22ad4976307467097c37c10f78>]"
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pages("0 0 300 300 re f"), "PDF without text"),
        (pages(show("  ")), "PDF without text"),
        (pages(show("text"), trailer=LOCK), "encrypted file"),
    ],
)
def test_scans_and_locked_files_are_left_out_by_name(
    tmp_path: Path, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    assert read(tmp_path, content, tally) == []
    assert tally.skipped == {reason: 1}
    assert capsys.readouterr().err == f"a.pdf is left out: {reason}\n"


def refused(folder: Path, content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.pdf ") as caught:
        read(folder, content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_pdf_or_damaged_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"plain text", b"%PDF-1.7\n%%EOF", pages(show("text"))[:100]):
        refused(tmp_path, content, "cannot be read: Failed to load document (PDFium: ")


def test_too_many_pages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGES", 3)
    assert read(tmp_path, pages(*[show("la")] * 3)) == ["la\nla\nla\n"]
    refused(tmp_path, pages(*[show("la")] * 4), "has more than 3 pages")


def test_forms_in_forms_end_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_SECONDS", 1)
    refused(tmp_path, endless(), "takes more than 1 s to read")


def test_a_stream_that_unpacks_without_end_ends_with_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_MEMORY_BYTES", 250 << 20)
    packed = zlib.compress(zlib.compress(bytes(300 << 20), 1), 9).decode("latin-1")
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>"
    tree = "<</Type/Pages/Kids[3 0 R]/Count 1>>"
    bomb = stream(packed, "/Filter[/FlateDecode/FlateDecode]")
    content = made_of("<</Type/Catalog/Pages 2 0 R>>", tree, page, bomb)
    assert len(content) < 20_000
    refused(tmp_path, content, "cannot be read: PDFium ended by SIG")


def endless() -> bytes:
    """A PDF of forms in forms, which takes hours."""
    forms = [" ".join([f"/X{n + 1} Do"] * 20) for n in range(12)]
    return pages("/X0 Do", forms=(*forms, show("la")))


def test_no_process_is_left_when_the_stage_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(endless())
    code = f"from stages.download.pdf import pdf_text; pdf_text('a', open({str(file)!r}, 'rb'))"
    stage = psutil.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (children := stage.children()) or children[0].cpu_times().user < 0.3:
        assert stage.poll() is None
        time.sleep(0.05)
    stage.kill()
    stage.wait()
    gone, left = psutil.wait_procs(children, timeout=60)
    assert len(gone) == 1
    assert not left


def test_the_process_needs_nothing_of_the_project(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(pages(show("text")))
    command = [sys.executable, "-P", pdf.__file__, "9", "60", str(4 << 30)]
    with file.open("rb") as content:
        done = subprocess.run(command, stdin=content, capture_output=True, cwd=tmp_path, env={})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"text\n", b"")


def test_nothing_is_left_in_the_folder_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    read(tmp_path, pages(show("text")))
    refused(tmp_path, b"plain", "cannot be read")
    assert list(folder.iterdir()) == []


def test_what_is_read_does_not_have_to_be_a_file(tmp_path: Path) -> None:
    content = io.BufferedReader(io.BytesIO(pages(show("text"))))  # type: ignore[type-var]
    assert pdf.pdf_text("a.pdf", content) == "text\n"
