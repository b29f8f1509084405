import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.readers import Document, decode, file_documents, jsonl_documents, text_documents

BOM = b"\xef\xbb\xbf"


def read(file: Path, separator: str | None = None, column: str = "text") -> list[Document]:
    return list(file_documents(file.name, file, separator, column))


def write_parquet(file: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def test_text_is_decoded_as_utf8() -> None:
    assert decode("naïve 字\r\n".encode(), "a.txt") == "naïve 字\r\n"


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode(BOM + b"abc", "a.txt") == "abc"


def test_a_byte_that_is_not_utf8_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"a/b\.txt is not UTF-8 \(byte 2: 0xe9\)") as caught:
        decode(b"ab\xe9cd", "a/b.txt")
    assert "iconv -f latin1 -t utf-8 b.txt" in str(caught.value)


def test_the_place_of_a_bad_byte_counts_the_byte_order_mark() -> None:
    with pytest.raises(ValueError, match=r"byte 5: 0xe9"):
        decode(BOM + b"ab\xe9cd", "a.txt")


def test_a_text_is_one_document_with_nothing_changed() -> None:
    text = " a\r\n\n\n\nb \n"
    assert list(text_documents("a.txt", text, None)) == [Document("a.txt", text, "a.txt")]


def test_a_separator_cuts_a_text_into_documents() -> None:
    assert list(text_documents("a.txt", "one--two--", "--")) == [
        Document("a.txt#0", "one", "a.txt"),
        Document("a.txt#1", "two", "a.txt"),
        Document("a.txt#2", "", "a.txt"),
    ]


def test_each_json_line_is_a_document_named_by_its_number() -> None:
    lines = '{"text": "one"}\n\n  \n{"text": "two\\nlines", "other": 1}\r\n'
    assert list(jsonl_documents("a.jsonl", lines, "text")) == [
        Document("a.jsonl#1", "one", "a.jsonl"),
        Document("a.jsonl#4", "two\nlines", "a.jsonl"),
    ]


def test_a_line_that_is_not_json_is_named_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3 is not JSON"):
        list(jsonl_documents("a.jsonl", '{"text": "one"}\n\n{"text": \n', "text"))


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_only_at_a_newline(character: str) -> None:
    text = f"one{character}two"
    line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    assert [d.text for d in jsonl_documents("a.jsonl", line, "text")] == [text]


@pytest.mark.parametrize("row", ['{"body": "x"}', '{"text": 1}', "[1]", '"text"'])
def test_a_json_line_without_text_in_its_column_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1 has no text in 'text'"):
        list(jsonl_documents("a.jsonl", row, "text"))


def test_each_parquet_row_is_a_document_however_many_there_are(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(600)]
    documents = read(write_parquet(tmp_path / "a.parquet", text=texts, n=list(range(600))))
    assert [d.text for d in documents] == texts
    assert [d.id for d in documents] == [f"a.parquet#{n}" for n in range(600)]


def test_the_text_column_can_have_another_name(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", body=["one"])
    assert [d.text for d in read(file, column="body")] == ["one"]


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", body=["one"], n=[1])
    with pytest.raises(ValueError, match=r"a\.parquet has no column 'text'.*\['body', 'n'\]"):
        read(file)


def test_a_null_is_an_empty_document_which_download_counts(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", text=["one", None])
    assert [d.text for d in read(file)] == ["one", ""]
    assert [d.text for d in jsonl_documents("a.jsonl", '{"text": null}', "text")] == [""]


@pytest.mark.parametrize("size", [0, 3, 300])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    file = write_parquet(tmp_path / "a.parquet", text=["one"] * 100)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.parquet is not a parquet file"):
        read(file)


def test_a_parquet_file_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", text=[f"{n} text" * 20 for n in range(5000)])
    content = bytearray(file.read_bytes())
    content[100:400] = b"\xff" * 300
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet"):
        read(file)


def test_the_end_of_the_name_decides_in_either_case(tmp_path: Path) -> None:
    lines = tmp_path / "A.JSONL"
    lines.write_text('{"text": "one"}\n')
    assert [d.text for d in read(lines)] == ["one"]
    note = tmp_path / "a.md"
    note.write_text('{"text": "one"}\n')
    assert [d.text for d in read(note)] == ['{"text": "one"}\n']
