"""Readers: the documents inside a file, whatever its kind, one held in memory at a time."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stages.download.archives import Budget, make_seekable, split_suffixes
from stages.download.encodings import decode_stream
from stages.download.file_streams import file_streams
from stages.download.markup import MAX_MARKUP_BYTES, html_text, markdown_text
from stages.download.office import OFFICE, office_text
from stages.download.tables import DIALECTS, column_index, table_texts
from stages.download.tally import Tally
from stages.lib.reasons import LeftOut, brief

# text8 and enwik8, the longest single texts of the field, have 100 MB. A document passes through
# every stage in one piece, so this bounds the memory of all of them.
MAX_DOCUMENT_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files become documents, by the keys of the section `corpus`."""

    separator: str | None
    text_column: str
    encoding: str


class Document(NamedTuple):
    """One text: `id` is unique in the corpus, `source` says which file or dataset it is from."""

    id: str
    text: str
    source: str


def file_documents(name: str, file: Path, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """The documents of one file or archive.

    Raises ValueError naming what is wrong with the file and where.
    """
    for member, stream, budget in file_streams(name, file, tally.skipped):
        try:
            yield from stream_documents(member, stream, options, budget, tally.guessed)
            tally.read += 1
        except LeftOut as reason:
            tally.skipped[str(reason)] += 1
            print(f"{member} is left out: {reason}", file=sys.stderr)


def stream_documents(
    name: str,
    stream: io.BufferedReader,
    options: ReadOptions,
    budget: Budget,
    guessed: dict[str, str],
) -> Iterator[Document]:
    """The documents of an unpacked file, by the end of its name; one of another kind is text."""
    kind = split_suffixes(name)[1]
    if kind in OFFICE:
        text = iter([office_text(kind, name, stream, budget)])
        found = text_documents(name, text, options.separator)
    elif kind == ".parquet":
        found = parquet_documents(name, stream, options.text_column)
    else:
        text = normalize_newlines(decode_stream(name, stream, options.encoding, guessed))
        if kind == ".jsonl":
            found = jsonl_documents(name, text, options.text_column)
        elif kind in DIALECTS:
            found = table_documents(name, text, options.text_column, kind)
        elif kind in (".html", ".htm"):
            found = html_documents(name, text, options.separator)
        else:
            found = text_documents(name, text, options.separator)
            if kind == ".md":
                found = (
                    d._replace(text=convert_markup(markdown_text, d.text, d.id)) for d in found
                )
    for document in found:
        if is_too_long(document.text):
            raise too_long_error(document.id)
        yield document


def normalize_newlines(text: Iterator[str]) -> Iterator[str]:
    r"""The same text with its lines ended by "\n", also where Windows ends them by "\r\n"."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    yield from map(newlines.decode, text)
    yield newlines.decode("", final=True)


def text_documents(name: str, text: Iterator[str], separator: str | None) -> Iterator[Document]:
    """One document, or one for each part between separators."""
    if separator is None:
        yield Document(name, read_all(text, name), name)
        return
    separator = separator.replace("\r\n", "\n")
    for i, part in enumerate(split_stream(text, separator, lambda i: f"{name}#{i}")):
        yield Document(f"{name}#{i}", part, name)


def html_documents(name: str, text: Iterator[str], separator: str | None) -> Iterator[Document]:
    """The same of a page of HTML; the separator is looked for in what a reader sees."""
    page = convert_markup(html_text, read_all(text, name), name)
    yield from text_documents(name, iter([page]), separator)


def convert_markup(convert: Callable[[str], str], source: str, name: str) -> str:
    """The text that markup shows."""
    if len(source) > MAX_MARKUP_BYTES:
        raise ValueError(
            f"{name} has more than {MAX_MARKUP_BYTES >> 20} MiB of markup, which would take too "
            "much memory; cut it, or make it a .txt"
        )
    try:
        return convert(source)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def jsonl_documents(name: str, text: Iterator[str], column: str) -> Iterator[Document]:
    """One document a line."""
    for i, line in enumerate(utf8_lines(text, lambda i: f"{name}, line {i + 1}"), start=1):
        if line.isspace():
            continue
        place = f"{name}, line {i}"
        if line.lstrip().startswith(b"["):
            raise ValueError(
                f"{place} begins a JSON list; a .jsonl file has one object a line, such as "
                f'{{"{column}": "…"}}'
            )
        yield Document(f"{name}#{i}", column_text(json_row(line, place), column, place), name)


def json_row(line: bytes, place: str) -> Any:
    """What a line of JSON, in UTF-8, holds. Raises ValueError when it is none."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass  # the standard library knows more (NaN, halves of surrogate pairs), at half the speed
    try:
        return json.loads(line.decode("utf-8", "surrogatepass").rstrip("\r\n"))
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"{place} is not JSON: {what} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{place} cannot be read: too long a number, or too deep") from None


def table_documents(name: str, text: Iterator[str], column: str, kind: str) -> Iterator[Document]:
    """One document a row, named by the line where it begins."""
    lines = (line + "\n" for line in split_stream(text, "\n", lambda i: f"{name}, line {i + 1}"))
    for line, row in table_texts(name, lines, kind, column, MAX_DOCUMENT_BYTES):
        yield Document(f"{name}#{line}", row, name)


def parquet_documents(name: str, stream: io.BufferedReader, column: str) -> Iterator[Document]:
    """One document a row, read a few rows at a time."""
    number = 0
    try:
        # Read ahead by pieces: a group of rows can be as large as the file.
        with (
            make_seekable(stream) as file,
            pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as reader,
        ):
            column_index(name, reader.schema_arrow.names, column)
            for batch in reader.iter_batches(batch_size=16, columns=[column]):  # rows may be long
                for content in arrow_values(batch.column(0), f"{name}#", number):
                    where = f"{name}#{number}"
                    yield Document(where, column_text({column: content}, column, where), name)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())  # in one line
        raise ValueError(f"{name} is not a parquet file, or a damaged one: {what}") from None


def arrow_values(column: pa.Array | pa.ChunkedArray, prefix: str, first: int) -> list[Any]:
    """Return the values of a column. Raises ValueError naming the row of one that is not UTF-8."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        for row, value in enumerate(column, start=first):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{prefix}{row} is not UTF-8 (byte {error.start}: "
                    f"0x{error.object[error.start]:02x}), as texts in parquet have to be; write "
                    "the file again from the texts decoded rightly"
                ) from None
        raise
    return values


def column_text(row: Any, column: str, where: str) -> str:
    """The text of a row, "" where it is null. Raises ValueError when there is no such column."""
    if isinstance(row, dict) and column in row:
        text = row[column]
        if isinstance(text, str):
            return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        if text is None:
            return ""
        what = f"{type(text).__name__} in {column!r}"
        raise ValueError(f"{where} has {what} (corpus.text_column), where a text should be")
    keys = brief(sorted(row)) if isinstance(row, dict) else type(row).__name__
    raise ValueError(f"{where} has no text in {column!r} (corpus.text_column); it has {keys}")


def split_stream(text: Iterator[str], separator: str, place: Callable[[int], str]) -> Iterator[str]:
    """What `"".join(text).split(separator)` gives, one part at a time.

    Raises ValueError on a part that is too long, without waiting for its end; `place` says which.
    """
    number = length = 0
    held: list[str] = []
    tail = ""  # it may be the beginning of a separator
    for chunk in text:
        *parts, last = (tail + chunk).split(separator)
        for part in parts:
            yield "".join([*held, part])
            number, length, held = number + 1, 0, []
        end = max(0, len(last) - len(separator) + 1)
        held.append(last[:end])
        tail = last[end:]
        length += end
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(place(number))
    yield "".join([*held, tail])


def utf8_lines(text: Iterator[str], place: Callable[[int], str]) -> Iterator[bytes]:
    """The lines of a text in UTF-8, with their ends: `cut` takes three times as long for them.

    Raises ValueError on a line that is too long, as `cut` does.
    """
    number = length = 0
    held: list[bytes] = []  # of a line that continues
    for chunk in text:
        for line in io.BytesIO(chunk.encode("utf-8", "surrogatepass")):
            held.append(line)
            if line.endswith(b"\n"):
                yield b"".join(held)
                number, length, held = number + 1, 0, []
            else:
                length += len(line)
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(place(number))
    if held:
        yield b"".join(held)


def read_all(text: Iterator[str], name: str) -> str:
    """All of a text. Raises ValueError when it is too long, without waiting for its end."""
    held: list[str] = []
    length = 0
    for chunk in text:
        held.append(chunk)
        length += len(chunk)
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(name)
    return "".join(held)


def is_too_long(text: str) -> bool:
    """Whether a text has more bytes of UTF-8 than a document may; a character has at most 4."""
    if len(text) * 4 <= MAX_DOCUMENT_BYTES:
        return False
    return len(text.encode("utf-8", "surrogatepass")) > MAX_DOCUMENT_BYTES


def too_long_error(place: str) -> ValueError:
    """What to say of a document that is too long."""
    return ValueError(
        f"{place} is longer than {MAX_DOCUMENT_BYTES:,} bytes, the most that one document may "
        'have; cut it into smaller ones (corpus.separator, such as "\\n\\n\\n", does so with texts)'
    )
