"""Readers: the documents inside a file of text, JSON lines or parquet."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READABLE = (".txt", ".md", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Document:
    """One text: `id` is unique in the corpus, `source` says which file or dataset it is from."""

    id: str
    text: str
    source: str


def decode(content: bytes, name: str) -> str:
    """UTF-8 text without its byte-order mark. Raises ValueError naming the first bad byte."""
    try:
        return content.decode("utf-8").removeprefix("\ufeff")  # the byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 (byte {error.start}: 0x{content[error.start]:02x}); convert it, "
            f"for example by `iconv -f latin1 -t utf-8 {Path(name).name}`"
        ) from None


def text_documents(name: str, text: str, separator: str | None) -> Iterator[Document]:
    """One document, or one for each part between separators."""
    if separator is None:
        yield Document(name, text, name)
        return
    for i, part in enumerate(text.split(separator)):
        yield Document(f"{name}#{i}", part, name)


def jsonl_documents(name: str, text: str, column: str) -> Iterator[Document]:
    """One document a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}, line {number} is not JSON: {error}") from None
        yield Document(f"{name}#{number}", column_text(row, column, f"{name}, line {number}"), name)


def parquet_documents(name: str, file: Path, column: str) -> Iterator[Document]:
    """One document a row, read group by group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        reader = pq.ParquetFile(file)
        if column not in (names := reader.schema_arrow.names):
            raise ValueError(
                f"{name} has no column {column!r} (corpus.text_column); it has {names}"
            )
        for batch in reader.iter_batches(batch_size=256, columns=[column]):
            for row in batch.to_pylist():
                where = f"{name}#{number}"
                yield Document(where, column_text(row, column, where), name)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} is not a parquet file, or a damaged one: {error}") from None


def column_text(row: Any, column: str, where: str) -> str:
    """The text of a row, "" where it is null. Raises ValueError when there is no such column."""
    if isinstance(row, dict) and column in row and row[column] is None:
        return ""
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        keys = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where} has no text in {column!r} (corpus.text_column); it has {keys}")
    text: str = row[column]
    return text


def file_documents(name: str, file: Path, separator: str | None, column: str) -> Iterator[Document]:
    """The documents of one file, by the end of its name."""
    kind = Path(name).suffix.lower()
    if kind == ".parquet":
        yield from parquet_documents(name, file, column)
    elif kind == ".jsonl":
        text = decode(file.read_bytes(), name)
        yield from jsonl_documents(name, text, column)
    else:
        text = decode(file.read_bytes(), name)
        yield from text_documents(name, text, separator)
