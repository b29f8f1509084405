"""Whatever lies in the folder of texts, `download` ends well, or in words and with nothing left.

Files of every kind that is read are made of any bytes, or made well and then damaged, nested,
packed and packed again. A few examples run with every test, always the same ones; `make fuzz` goes
on with random ones. What it found stays here as an example.
"""

import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from stages.download.archives import ARCHIVES, DAMAGE, split_suffixes
from stages.download.file_streams import ENCODED, READABLE, is_hidden
from stages.download.params import CorpusParams
from stages.download.stage import run
from stages.runtime.errors import EXPECTED

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def fuzz(examples: int) -> settings:
    """So many examples, the same ones each time; random ones without end in a long run."""
    return settings(
        max_examples=1_000_000 if LONG else examples,
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# --- files ---------------------------------------------------------------------------------------

PACKINGS = ("", ".gz", ".zst", ".xz")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ODD_TEXT = st.one_of(
    TEXT,
    st.text('a ,"\t\r\n\0\ufeff\u2028\u0301😀', max_size=30),
    st.text("<>&;:/!-[]{}\\*_#`|'\"=ap \n", max_size=60),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32-be", "cp1252", "shift_jis", "cp437")


def encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "replace")


def table(rows: list[list[str]], delimiter: str) -> bytes:
    quoted = (['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows)
    return ("text" + delimiter + "more\n" + "\n".join(map(delimiter.join, quoted))).encode()


def parquet(texts: list[str | None]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), content)
    return content.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name or "empty", data)
    return content.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name or "empty")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zst(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def tags(names: str) -> st.SearchStrategy[str]:
    """XML of these elements, nested as they fall, with text between."""
    opened = st.sampled_from(names.split())
    text = ODD_TEXT.map(lambda t: t.replace("&", "").replace("<", "").replace("\0", ""))
    return st.recursive(
        text.map(lambda t: "".join(c for c in t if c >= " " or c in "\t\n")),
        lambda inner: st.tuples(opened, st.lists(inner, max_size=4)).map(
            lambda made: f"<{made[0]}>{''.join(made[1])}</{made[0].split()[0]}>"
        ),
        max_leaves=12,
    )


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
ODF = "urn:oasis:names:tc:opendocument:xmlns:"


def docx(body: str) -> bytes:
    def relations(kind: str, target: str) -> bytes:
        about = f'Type="{RELATION}{kind}" Target="{target}"'
        return f'<r><a:Relationship xmlns:a="p" {about}/></r>'.encode()

    notes = f'<w:footnotes xmlns:w="{W}"><w:footnote w:id="1">{body}</w:footnote></w:footnotes>'
    return zipped(
        {
            "_rels/.rels": relations("officeDocument", "d/d.xml"),
            "d/_rels/d.xml.rels": relations("footnotes", "n.xml"),
            "d/d.xml": f'<w:document xmlns:w="{W}">{body}</w:document>'.encode(),
            "d/n.xml": notes.encode(),
        }
    )


def odt(body: str) -> bytes:
    spaces = (
        f'xmlns:text="{ODF}text:1.0" xmlns:table="{ODF}table:1.0" xmlns:draw="{ODF}drawing:1.0"'
    )
    head = f'<o:document-content xmlns:o="{ODF}office:1.0" {spaces}><o:body><o:text>'
    return zipped({"content.xml": f"{head}{body}</o:text></o:body></o:document-content>".encode()})


def epub(page: str) -> bytes:
    opf = '<p><item id="a" href="a.html" media-type="text/html"/><itemref idref="a"/></p>'
    return zipped(
        {
            "META-INF/container.xml": b'<c><rootfile full-path="b.opf"/></c>',
            "b.opf": opf.encode(),
            "a.html": page.encode(),
        }
    )


def pdf(content: str) -> bytes:
    made = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1/MediaBox[0 0 9 9]>>",
        "<</Type/Page/Parent 2 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1"
        "/BaseFont/Helvetica>>>>>>/Contents 4 0 R>>",
        f"<</Length {len(content) + 20}>>stream\nBT /F 9 Tf ({content}) Tj ET\nendstream",
    ]
    objects = "".join(f"{n} 0 obj\n{each}\nendobj\n" for n, each in enumerate(made, start=1))
    return encoded(f"%PDF-1.7\n{objects}trailer\n<</Size 5/Root 1 0 R>>\n%%EOF\n", "latin-1")


WORD_TAGS = "w:p w:r w:t w:tbl w:tr w:tc w:del w:ins w:pPr w:rPr w:vanish w:txbxContent w:br w:x"
WORD_TAGS += ' w:footnote w:footnoteReference&w:id="1"'
ODF_TAGS = "text:p text:h text:s text:span text:note text:note-body text:tab table:table-row"
ODF_TAGS += " table:table-cell draw:text-box text:tracked-changes text:x"
HTML_TAGS = "p b div table tr td pre ul li br script style svg x"
RTF_WORDS = (
    r"{ } \par \tab \cell \row \b \u8364 \u-10179 \u-8704 ? \'e9 \'81 \uc0 \uc2 \f1 \plain \v \v0 "
    r"\deleted {\footnote {\fonttbl{\f1\fcharset204 {\* \bin3 \shp {\*\shpinst {\shptxt x \\"
)


def with_attributes(names: str) -> st.SearchStrategy[str]:
    return tags(names).map(lambda xml: xml.replace("&w:id", " w:id").replace('"1"></', '"1"></'))


WELL_MADE: dict[str, st.SearchStrategy[bytes]] = {
    ".txt": st.builds(encoded, ODD_TEXT, st.sampled_from(ENCODINGS)),
    ".md": st.builds(encoded, ODD_TEXT, st.just("utf-8")),
    ".html": tags(HTML_TAGS).map(str.encode),
    ".jsonl": st.lists(
        st.one_of(
            st.fixed_dictionaries({"text": ODD_TEXT}),
            st.dictionaries(TEXT, st.none() | st.integers() | TEXT, max_size=2),
        ).map(json.dumps),
        max_size=4,
    ).map(lambda lines: "\n".join(lines).encode()),
    ".csv": st.lists(st.lists(ODD_TEXT, min_size=2, max_size=2), max_size=4).map(
        lambda rows: table(rows, ",")
    ),
    ".tsv": st.lists(st.lists(ODD_TEXT, min_size=2, max_size=2), max_size=4).map(
        lambda rows: table(rows, "\t")
    ),
    ".parquet": st.lists(st.none() | ODD_TEXT, max_size=4).map(parquet),
    ".docx": with_attributes(WORD_TAGS).map(docx),
    ".odt": tags(ODF_TAGS).map(odt),
    ".rtf": st.lists(st.sampled_from(RTF_WORDS.split()), max_size=12).map(
        lambda words: rf"{{\rtf1\ansi {' '.join(words)}}}".encode() + b"}" * str(words).count("{")
    ),
    ".epub": tags(HTML_TAGS).map(epub),
    ".pdf": TEXT.map(pdf),
    "": st.binary(max_size=20),
    ".doc": st.binary(max_size=20),
}
WELL_MADE[".htm"] = WELL_MADE[".html"]


@st.composite
def damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """The same with some bytes cut off, changed, repeated or put in between."""
    content = draw(contents)
    for how in draw(st.lists(st.sampled_from(["cut", "change", "repeat", "insert"]), max_size=3)):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        if how == "cut":
            content = content[:at]
        elif how == "change":
            content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 4 :]
        elif how == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at:]
        else:
            end = draw(st.integers(at, min(len(content), at + 40)))
            times = draw(st.sampled_from([2, 50, 3000, 70_000]))
            content = content[:at] + content[at:end] * times + content[end:]
    return content


@st.composite
def nested(draw: st.DrawFn) -> bytes:
    """Something within itself, many times."""
    starts = ["[", "{", '{"text":', "<div>", "<w:p>", "> ", "* ", "{\\b ", "(", '"', "<!--", "&#"]
    ends = ["", "]", "}", "</div>", "</w:p>", ")", "\n", '"']
    times = draw(st.sampled_from([1, 30, 999, 1001, 5000, 40_000]))
    head = draw(st.sampled_from(["", '{"text":', "{\\rtf1", "text\n", "<html>"]))
    return (
        head + draw(st.sampled_from(starts)) * times + draw(st.sampled_from(ends)) * times
    ).encode()


STEMS = st.one_of(
    st.sampled_from(["a", "b", ".hidden", "~$a", "c/d", ".e/f", "ä ö", "a\nb", "x" * 200, "g/h/i"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=5),
)


def ending(kind: str, packing: str, shout: bool) -> str:
    return (kind + packing).upper() if shout else kind + packing


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda content: pa.CompressedInputStream(io.BytesIO(content), "zstd").read(),
}


@st.composite
def file(draw: st.DrawFn, depth: int = 1) -> tuple[str, bytes]:
    """A name and what is in it, which may be something else than the name says."""
    kinds = [*WELL_MADE] if depth == 0 else [*WELL_MADE, ".zip", ".tar", ".zip", ".tar"]
    kind = draw(st.sampled_from(kinds))
    packing = draw(st.sampled_from(PACKINGS))
    how = draw(st.sampled_from(["well", "well", "damaged", "bytes", "nested", "other"]))
    if kind in (".zip", ".tar"):
        inside = dict(draw(st.lists(file(depth - 1), max_size=3)))
        content = zipped(inside) if kind == ".zip" else tarred(inside)
        content = draw(damaged(st.just(content))) if how == "damaged" else content
    elif how == "bytes":
        content = draw(st.binary(max_size=300))
    elif how == "nested":
        content = draw(nested())
    elif how == "other":
        content = draw(WELL_MADE[draw(st.sampled_from([*WELL_MADE]))])
    else:
        made = WELL_MADE[kind]
        content = draw(damaged(made) if how == "damaged" else made)
    packed = PACK[packing](content)
    if packing and how == "damaged":
        packed = draw(damaged(st.just(packed)))
    return draw(STEMS) + ending(kind, packing, draw(st.booleans())), packed


REPORTED = tuple(error for error in EXPECTED if error is not KeyboardInterrupt)

# --- what holds of every folder -------------------------------------------------------------------


def params(path: Path, separator: str | None, encoding: str) -> CorpusParams:
    return CorpusParams(
        source="files",
        path=str(path),
        glob="**/*",
        separator=separator,
        text_column="text",
        encoding=encoding,
        package=None,
        urls=[],
        huggingface=None,
        mixture=None,
    )


def put(files: dict[str, bytes], folder: Path) -> int:
    """Write the files into a new folder, those that it can hold; how many they are."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (OSError, ValueError):  # a name that is too long, a folder of the same name
            continue
    return sum(n_inside(path.relative_to(folder), path.read_bytes()) for path in everything(folder))


def everything(folder: Path) -> list[Path]:
    """All files in a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def n_inside(name: Path, content: bytes) -> int:
    """How many files the stage has to account for: in an archive that it reads, the members."""
    compression, kind = split_suffixes(name.name)
    if is_hidden(name) or kind not in ARCHIVES:
        return 1
    try:
        content = UNPACK[compression](content)
        if kind == ".zip":
            return sum(not i.is_dir() for i in zipfile.ZipFile(io.BytesIO(content)).infolist())
        return sum(info.isfile() for info in tarfile.open(fileobj=io.BytesIO(content)))
    except (*DAMAGE, tarfile.TarError, NotImplementedError, ValueError):  # the stage refuses it
        return 1


def rows(out: Path, manifest: dict[str, Any]) -> list[dict[str, str]]:
    """All documents in the parts that the manifest names."""
    names = [part["name"] for part in manifest["files"]]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "manifest.json"])
    return [row for name in names for row in pq.read_table(out / name).to_pylist()]


def check(files: dict[str, bytes], separator: str | None, encoding: str) -> None:
    """Run the stage on a folder of these files."""
    with tempfile.TemporaryDirectory() as folder:
        texts, out, temporary = (Path(folder, name) for name in ("texts", "out", "tmp"))
        temporary.mkdir()
        n_files = put(files, texts)
        assume(n_files)
        with patch("tempfile.tempdir", str(temporary)):
            try:
                run(params(texts, separator, encoding), out)
            except REPORTED as error:
                lines = str(error).split("\n")
                assert all(lines), lines
                assert all(len(line) < 5000 for line in lines), lines
                assert {path.name for path in Path(folder).iterdir()} == {"texts", "tmp"}
                return
            finally:
                assert not [*temporary.iterdir()]
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        documents = rows(out, manifest)
        skipped = manifest["skipped"].items()
        of_files = sum(count for reason, count in skipped if "document" not in reason)
        assert manifest["files_read"] + of_files == n_files
        assert manifest["documents"] == len(documents) > 0
        assert manifest["bytes"] == sum(len(row["text"].encode()) for row in documents)
        assert len({row["id"] for row in documents}) == len(documents)
        assert not any(row["text"].isspace() or "\0" in row["text"] for row in documents)


SEPARATORS = st.sampled_from([None, None, "\n\n", "a", "\r\n"])
READ_AS = st.sampled_from(["utf-8", "utf-8", "auto", "utf-16", "cp1252"])


# Arrow's message has a line feed at its end.
DAMAGED_FOOTER = parquet(["text"])[:-13] + b"\xff" + parquet(["text"])[-12:]


@example(files={"a.parquet": DAMAGED_FOOTER}, separator=None, encoding="utf-8")
# Messages quoted all of these: a name of a column, a key, a file, a line without a blank.
@example(files={"a.csv": b"x" * 6000 + b",more\n"}, separator=None, encoding="utf-8")
@example(files={"a.csv": b"," * 6000}, separator=None, encoding="utf-8")
@example(files={"a.jsonl": b'{"' + b"x" * 6000 + b'": ""}'}, separator=None, encoding="utf-8")
@example(files={"\n.csv": b"text,more\n"}, separator=None, encoding="utf-16")
@example(files={"a.zip": zipped({"b\n.txt": b"\xe9"})}, separator=None, encoding="utf-8")
@example(files={"a.txt": b"," * 6000 + "é".encode("cp1252")}, separator=None, encoding="utf-8")
@fuzz(40)
@given(st.lists(file(), min_size=1, max_size=3).map(dict), SEPARATORS, READ_AS)
def test_any_folder_of_files(files: dict[str, bytes], separator: str | None, encoding: str) -> None:
    check(files, separator, encoding)


@fuzz(60)
@given(st.data())
def test_any_damage_to_one_file(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([k for k in WELL_MADE if k in READABLE]))
    content = data.draw(damaged(WELL_MADE[kind]))
    check({f"a{kind}": content, "b.txt": b"text"}, data.draw(SEPARATORS), data.draw(READ_AS))


@fuzz(20)
@given(st.sampled_from(sorted({*ENCODED, ".rtf", ".epub"})), nested(), READ_AS)
def test_anything_within_itself(kind: str, content: bytes, encoding: str) -> None:
    check({f"a{kind}": epub(content.decode()) if kind == ".epub" else content}, None, encoding)
