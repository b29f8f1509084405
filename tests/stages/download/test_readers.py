import csv
import io
import json
import os
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.download import readers
from stages.download.file_streams import is_readable
from stages.download.readers import (
    Document,
    ReadOptions,
    file_documents,
    normalize_newlines,
    split_stream,
    utf8_lines,
)
from stages.download.tally import Tally

READING = ReadOptions(separator=None, text_column="text", encoding="utf-8")

# Any text that can be written as UTF-8 and is no binary file.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def read(name: str, content: bytes | str, **how: Any) -> list[Document]:
    """The documents of a file of this name with this content."""
    content = content.encode() if isinstance(content, str) else content
    with TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_bytes(content)
        return list(file_documents(name, file, replace(READING, **how), Tally()))


def texts(name: str, content: bytes | str, **how: Any) -> list[str]:
    return [document.text for document in read(name, content, **how)]


def refused(name: str, content: bytes | str, *words: str, **how: Any) -> None:
    """The file is refused in these words."""
    with pytest.raises(ValueError, match=f"^{re.escape(name)}") as caught:
        read(name, content, **how)
    for word in words:
        assert word in str(caught.value)


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def table(rows: list[list[str]]) -> str:
    content = io.StringIO(newline="")
    csv.writer(content).writerows(rows)
    return content.getvalue()


# --- .txt ----------------------------------------------------------------------------------------


def test_a_text_is_one_document_with_nothing_changed_but_its_line_ends() -> None:
    text = " a\n\n\n\nb \x0b\u2028\n"
    for end in ("\n", "\r\n", "\r"):
        assert read("a.txt", text.replace("\n", end)) == [Document("a.txt", text, "a.txt")]


@settings(max_examples=50)
@given(st.lists(st.text("a\r\n", max_size=4), max_size=8))
def test_lines_end_alike_wherever_the_pieces_end(pieces: list[str]) -> None:
    assert "".join(normalize_newlines(iter(pieces))) == re.sub("\r\n?", "\n", "".join(pieces))


@pytest.mark.parametrize("separator", ["\n\n", "\r\n\r\n"])
def test_a_separator_is_found_whatever_ends_the_lines(separator: str) -> None:
    for text in ("one\n\ntwo", "one\r\n\r\ntwo"):
        found = read("a.txt", text, separator=separator)
        assert [document.text for document in found] == ["one", "two"]


def test_a_separator_cuts_a_text_into_documents() -> None:
    assert read("a.txt", "one--two--", separator="--") == [
        Document("a.txt#0", "one", "a.txt"),
        Document("a.txt#1", "two", "a.txt"),
        Document("a.txt#2", "", "a.txt"),
    ]


@settings(max_examples=50)
@given(st.lists(st.text("ab-", max_size=5), max_size=8), st.sampled_from(["-", "--", "-a-", "aab"]))
def test_a_text_is_cut_wherever_its_pieces_end(pieces: list[str], separator: str) -> None:
    found = list(split_stream(iter(pieces), separator, str))
    assert found == "".join(pieces).split(separator)


@settings(max_examples=50)
@given(st.lists(st.text("a\n\r\u2028é", max_size=5), max_size=8))
def test_lines_are_what_is_cut_at_their_ends(pieces: list[str]) -> None:
    lines = [line.decode() for line in utf8_lines(iter(pieces), str)]
    assert "".join(lines) == "".join(pieces)
    assert [line.removesuffix("\n") for line in lines] == "".join(pieces).split("\n")[: len(lines)]


@settings(max_examples=50)
@given(st.lists(TEXTS, min_size=1))
def test_joined_texts_come_apart_again(written: list[str]) -> None:
    written = [re.sub("[\u241e\r]", "", text).removeprefix("\ufeff") for text in written]
    assert texts("a.txt", "\u241e".join(written), separator="\u241e") == written


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "md", "html"])
def test_a_document_that_is_too_long_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 1 << 20)
    file = tmp_path / f"a.{kind}"
    with file.open("wb") as out:
        out.write(b"text\n" if kind == "csv" else b"")
        for _ in range(32):
            out.write(b"x" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"longer than 1,048,576 bytes.*corpus\.separator"):
        list(file_documents(file.name, file, READING, Tally()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_large_text_with_a_separator_is_never_held_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with file.open("w") as out:
        for n in range(32):
            out.write(f"{n}" + "x" * (1 << 20) + "\n\n")
    tracemalloc.start()
    how = replace(READING, separator="\n\n")
    starts = [d.text[:2] for d in file_documents(file.name, file, how, Tally())]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert starts == [f"{n}x"[:2] for n in range(32)] + [""]
    assert peak < 16 << 20


def test_the_length_of_a_document_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 30)
    assert texts("a.txt", "字" * 10) == ["字" * 10]
    refused("a.txt", "字" * 11, "longer than 30 bytes")
    refused("a.jsonl", json.dumps({"text": "x" * 31}), "line 1 is longer")
    refused("a.parquet", parquet(text=["x", "x" * 31]), "a.parquet#1 is longer")


# --- .jsonl --------------------------------------------------------------------------------------


def test_each_json_line_is_a_document_named_by_its_number() -> None:
    lines = '{"text": "one"}\n\n  \n{"text": "two\\nlines", "other": 1}\r\n'
    assert read("a.jsonl", lines) == [
        Document("a.jsonl#1", "one", "a.jsonl"),
        Document("a.jsonl#4", "two\nlines", "a.jsonl"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": ', "is not JSON: Expecting value at character 10"),
        ('{"text": "one', "is not JSON: Unterminated string starting at character 10"),
        ("[", 'begins a JSON list; a .jsonl file has one object a line, such as {"text": '),
        (
            '{"n": ' + "[" * 100_000,
            "cannot be read: a number is too long, or the nesting is too deep",
        ),
        (
            '{"n": ' + "1" * 5000 + "}",
            "cannot be read: a number is too long, or the nesting is too deep",
        ),
    ],
)
def test_a_line_that_is_not_json_is_named_by_its_number(line: str, words: str) -> None:
    refused("a.jsonl", f'{{"text": "one"}}\n\n{line}\n', f"a.jsonl, line 3 {words}")


def test_a_json_line_with_something_else_for_a_text_is_refused() -> None:
    refused("a.jsonl", '{"text": 1}', "line 1 has int in 'text' (corpus.text_column), where")


@pytest.mark.parametrize("row", ['{"body": "x"}', "7", '"text"'])
def test_a_json_line_without_text_in_its_column_is_refused(row: str) -> None:
    refused("a.jsonl", row, "line 1 has no text in 'text'")


@settings(max_examples=50)
@given(st.lists(TEXTS), st.booleans())
def test_texts_come_back_from_json_lines(written: list[str], ascii_only: bool) -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in written]
    assert texts("a.jsonl", "\n".join(rows)) == [re.sub("\r\n?", "\n", text) for text in written]


# --- .csv and .tsv -------------------------------------------------------------------------------


def test_each_row_of_a_table_is_a_document_named_by_the_line_where_it_begins() -> None:
    rows = 'n,text\n1,"two\nlines, ""quoted"""\n\n2,\r\n3,last'
    assert read("a.csv", rows) == [
        Document("a.csv#2", 'two\nlines, "quoted"', "a.csv"),
        Document("a.csv#5", "", "a.csv"),
        Document("a.csv#6", "last", "a.csv"),
    ]


def test_a_tab_separates_the_columns_of_a_tsv_file() -> None:
    assert texts("a.tsv", "text\tn\none, two\t1\nthree\t2\n") == ["one, two", "three"]


def test_a_quotation_mark_in_a_tsv_file_is_a_character_and_swallows_no_rows() -> None:
    rows = '1\tHe left.\n2\t"Wait for me.\n3\tShe called.\n4\tNo one came."\n5\tThe "end".\n'
    assert read("a.tsv", "id\ttext\n" + rows) == [
        Document("a.tsv#2", "He left.", "a.tsv"),
        Document("a.tsv#3", '"Wait for me.', "a.tsv"),
        Document("a.tsv#4", "She called.", "a.tsv"),
        Document("a.tsv#5", 'No one came."', "a.tsv"),
        Document("a.tsv#6", 'The "end".', "a.tsv"),
    ]


def test_a_tsv_file_of_quoted_fields_is_refused_with_the_way_out() -> None:
    refused("a.tsv", 'n\ttext\n1\t"a\tb"\n', "line 2 has 3 fields", "needs a .csv or .jsonl file")
    refused("a.tsv", 'n\ttext\n1\t"a\nb"\n', "line 3 has 1 fields", "needs a .csv or .jsonl file")
    refused("a.tsv", '"n"\t"text"\n', "has no column 'text'", """['"n"', '"text"']""")


@pytest.mark.parametrize("n_lines", [100, 101])
def test_a_quoted_field_of_more_lines_than_a_text_has_is_reported_with_its_line(
    n_lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "\n".join(["a line"] * n_lines)
    rows = [["n", "text"], ["1\n2", "short\ntext"], ["1", "x"], ["a\nb", long], ["2", long]]
    assert texts("a.csv", table(rows)) == ["short\ntext", "x", long, long]
    line = "a.csv: quoted fields of more than 100 lines: 2, the first from line 7 on; if a"
    assert capsys.readouterr().err.startswith(line) == (n_lines > 100)


def test_a_quotation_mark_without_a_partner_that_makes_one_text_of_many_rows_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [f"{n},row {n}\n" for n in range(200)]
    rows[20], rows[150] = '20,"row 20\n', '150,row 150"\n'
    assert len(texts("a.csv", "n,text\n" + "".join(rows))) == 70
    assert "more than 100 lines: 1, the first from line 22 on" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'n,text\n1,one\n2,"a\nb"\n'),
        ("a.tsv", "n\ttext\n1\tone\n2\ttwo\n"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'),
    ],
)
def test_rows_and_the_texts_in_them_are_the_same_whatever_ends_the_lines(
    name: str, content: str, end: str
) -> None:
    found = read(name, content.replace("\n", end))
    assert found == read(name, content)
    assert (found[0].text, len(found)) == ("one", 2)


def test_the_line_ends_in_a_text_are_the_same_in_every_kind_of_row() -> None:
    text = "a\r\nb\rc\n"
    rows = [
        texts("a.csv", table([["text"], [text]])),
        texts("a.jsonl", json.dumps({"text": text})),
        texts("a.parquet", parquet(text=[text])),
    ]
    assert rows == [["a\nb\nc\n"]] * 3


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_texts_come_back_from_tables(rows: list[tuple[str, str]]) -> None:
    content = table([["other", "text"], *map(list, rows)])
    assert texts("a.csv", content) == [re.sub("\r\n?", "\n", text) for _, text in rows]


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_texts_without_tabs_and_line_ends_come_back_from_tsv_files(
    rows: list[tuple[str, str]],
) -> None:
    plain = [[re.sub(r"[\t\r\n]", "", text) for text in row] for row in rows]
    content = "\n".join("\t".join(row) for row in [["other", "text"], *plain])
    assert texts("a.tsv", content) == [text for _, text in plain]


def test_a_field_may_be_longer_than_the_csv_module_allows_by_itself() -> None:
    text = "long, " * 100_000
    assert texts("a.csv", table([["text"], [text]])) == [text]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", ["is empty", "column names"]),
        ("\n\n", ["is empty"]),
        ("body,n\nx,1\n", ["no column 'text'", "['body', 'n']"]),
        ("text,n\nx,1\n\nx,1,2\n", ["line 4 has 3 fields", "column names 2"]),
        ("text,n\nx\n", ["line 2 has 1 fields"]),
        ('text\nx\n"never ends\n\n', ["line 3 is not a valid table row"]),
        ('text\n"ends" early\n', ["line 2 is not a valid table row"]),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_line(rows: str, words: list[str]) -> None:
    refused("a.csv", rows, *words)


# --- .parquet ------------------------------------------------------------------------------------


def test_each_parquet_row_is_a_document_however_many_there_are() -> None:
    written = [f"text {n}" for n in range(600)]
    documents = read("a.parquet", parquet(text=written, n=list(range(600))))
    assert [d.text for d in documents] == written
    assert [d.id for d in documents] == [f"a.parquet#{n}" for n in range(600)]


def test_the_text_column_can_have_another_name() -> None:
    assert texts("a.parquet", parquet(body=["one"]), text_column="body") == ["one"]


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has() -> None:
    refused("a.parquet", parquet(body=["one"], n=[1]), "has no column 'text'", "['body', 'n']")


def test_a_null_is_an_empty_document_which_download_counts() -> None:
    assert texts("a.parquet", parquet(text=["one", None])) == ["one", ""]
    assert texts("a.jsonl", '{"text": null}') == [""]


@pytest.mark.parametrize("size", [0, 3, 300])
def test_a_parquet_file_cut_short_is_refused(size: int) -> None:
    refused("a.parquet", parquet(text=["one"] * 100)[:size], "not a Parquet file")


def test_a_parquet_file_with_a_damaged_page_is_named() -> None:
    content = bytearray(parquet(text=[f"{n} text" * 20 for n in range(5000)]))
    content[100:400] = b"\xff" * 300
    refused("a.parquet", bytes(content), "damaged")


@pytest.mark.parametrize("row", [0, 20, 63])
def test_a_text_in_parquet_that_is_not_utf8_is_named_by_its_row_and_byte(row: int) -> None:
    written = [b"caf\xc3\xa9"] * 64
    written[row] = b"caf\xe9"
    binary = pa.array(written, pa.binary())
    strings = pa.StringArray.from_buffers(len(binary), *binary.buffers()[1:])
    refused("a.parquet", parquet(text=strings), f"a.parquet#{row} is not UTF-8 (byte 3: 0xe9)")


# --- names ---------------------------------------------------------------------------------------


def test_the_end_of_the_name_decides_in_either_case() -> None:
    assert texts("A.JSONL", '{"text": "one"}\n') == ["one"]
    assert texts("a.txt", '{"text": "one"}\n') == ['{"text": "one"}\n']
    assert texts("A.HTM", "<p>one") == ["one"]


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("a.txt", True),
        ("A.TXT.GZ", True),
        ("a.b.jsonl.zst", True),
        ("a.parquet.xz", True),
        ("a.tgz", True),
        ("a.tar.zst", True),
        ("a.doc", False),
        ("a.docm", False),
        ("a.doc.gz", False),
        ("a.Docx", True),
        ("a.pdf.gz", True),
        ("a.gz", False),
        ("txt", False),
    ],
)
def test_a_compressed_file_is_of_the_kind_it_holds(name: str, readable: bool) -> None:
    assert is_readable(name) == readable


def test_a_file_name_that_is_not_utf8_is_spelled_out(tmp_path: Path) -> None:
    file = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt"))
    file.write_text("text")
    found = list(file_documents(file.name, file, READING, Tally()))
    assert found == [Document("caf\\udce9.txt", "text", "caf\\udce9.txt")]


# --- markup --------------------------------------------------------------------------------------


def test_a_separator_is_looked_for_in_the_source_of_markdown_and_in_the_text_of_a_page() -> None:
    assert texts("a.md", "# One\n\n\n\n*two*\n", separator="\n\n\n\n") == ["One", "two"]
    page = "<p>one</p>\n\n<p>two</p>\n<div>-----</div>three"
    assert texts("a.html", page, separator="-----") == ["one\n\ntwo\n\n", "\nthree"]


def test_too_much_markup_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_MARKUP_BYTES", 1 << 20)
    refused("a.md", "x" * (1 << 20 | 1), "more than 1 MiB of markup")
    refused("a.html", "x" * (1 << 20 | 1), "more than 1 MiB of markup")
