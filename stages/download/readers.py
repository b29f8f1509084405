"""Readers of all kinds of files: each yields documents and holds one in memory at a time."""

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

# text8 and enwik8, the longest single texts in common use, have 100 MB. A document passes through
# every stage in one piece, so this bounds the memory of all of them.
MAX_DOCUMENT_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The keys of the section `corpus` that decide how files become documents."""

    separator: str | None
    text_column: str
    encoding: str


class Document(NamedTuple):
    """A document; `id` is unique in the corpus, `source` names its file or dataset."""

    id: str
    text: str
    source: str


def file_documents(name: str, file: Path, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a file or an archive, and update `tally`.

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
    """Yield the documents of a decompressed file; its suffix chooses the reader.

    Raises ValueError if a document is too long or the file is malformed.
    """
    kind = split_suffixes(name)[1]
    if kind in OFFICE:
        text = iter([office_text(kind, name, stream, budget)])
        documents = text_documents(name, text, options.separator)
    elif kind == ".parquet":
        documents = parquet_documents(name, stream, options.text_column)
    else:
        text = normalize_newlines(decode_stream(name, stream, options.encoding, guessed))
        if kind == ".jsonl":
            documents = jsonl_documents(name, text, options.text_column)
        elif kind in DIALECTS:
            documents = table_documents(name, text, options.text_column, kind)
        elif kind in (".html", ".htm"):
            documents = html_documents(name, text, options.separator)
        else:
            documents = text_documents(name, text, options.separator)
            if kind == ".md":
                documents = (
                    d._replace(text=convert_markup(markdown_text, d.text, d.id)) for d in documents
                )
    for document in documents:
        if is_too_long(document.text):
            raise too_long_error(document.id)
        yield document


def normalize_newlines(text: Iterator[str]) -> Iterator[str]:
    r"""Yield the text with all line ends, "\r\n" and "\r" too, as "\n"."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    yield from map(newlines.decode, text)
    yield newlines.decode("", final=True)


def text_documents(name: str, text: Iterator[str], separator: str | None) -> Iterator[Document]:
    """Yield the text as one document, or as one for each part between separators."""
    if separator is None:
        yield Document(name, read_all(text, name), name)
        return
    separator = separator.replace("\r\n", "\n")
    for i, part in enumerate(split_stream(text, separator, lambda i: f"{name}#{i}")):
        yield Document(f"{name}#{i}", part, name)


def html_documents(name: str, text: Iterator[str], separator: str | None) -> Iterator[Document]:
    """Yield the documents of an HTML page; separators are found in the text after conversion."""
    page = convert_markup(html_text, read_all(text, name), name)
    yield from text_documents(name, iter([page]), separator)


def convert_markup(convert: Callable[[str], str], source: str, name: str) -> str:
    """Convert markup to text. Raises ValueError if there is too much markup."""
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
    """Yield one document per line of JSON."""
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
    """Parse a line of JSON in UTF-8. Raises ValueError if it is not JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass  # the standard library accepts more (NaN, lone surrogates), at half the speed
    try:
        return json.loads(line.decode("utf-8", "surrogatepass").rstrip("\r\n"))
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise ValueError(f"{place} is not JSON: {reason} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise ValueError(
            f"{place} cannot be read: a number is too long, or the nesting is too deep"
        ) from None


def table_documents(name: str, text: Iterator[str], column: str, kind: str) -> Iterator[Document]:
    """Yield one document per row, numbered by the line where the row begins."""
    lines = (line + "\n" for line in split_stream(text, "\n", lambda i: f"{name}, line {i + 1}"))
    for line, row in table_texts(name, lines, kind, column, MAX_DOCUMENT_BYTES):
        yield Document(f"{name}#{line}", row, name)


def parquet_documents(name: str, stream: io.BufferedReader, column: str) -> Iterator[Document]:
    """Yield one document per row, read a few rows at a time."""
    number = 0
    try:
        # No pre-buffering of whole row groups: one can be as large as the file.
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
        reason = " ".join(str(error).split())  # in one line
        raise ValueError(f"{name} is damaged or not a Parquet file: {reason}") from None


def arrow_values(column: pa.Array | pa.ChunkedArray, prefix: str, first: int) -> list[Any]:
    """Return the values of a column, whose first row has the number `first`.

    Raises ValueError naming the row, after `prefix`, of a text that is not UTF-8.
    """
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        for row, value in enumerate(column, start=first):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{prefix}{row} is not UTF-8 (byte {error.start}: "
                    f"0x{error.object[error.start]:02x}), as text in parquet has to be; rewrite "
                    "the file from correctly decoded text"
                ) from None
        raise
    return values


def column_text(row: Any, column: str, where: str) -> str:
    """Return the text of a row, "" for null. Raises ValueError if there is no such column."""
    if isinstance(row, dict) and column in row:
        text = row[column]
        if isinstance(text, str):
            return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        if text is None:
            return ""
        held = f"{type(text).__name__} in {column!r}"
        raise ValueError(f"{where} has {held} (corpus.text_column), where a text should be")
    keys = brief(sorted(row)) if isinstance(row, dict) else type(row).__name__
    raise ValueError(f"{where} has no text in {column!r} (corpus.text_column); it has {keys}")


def split_stream(text: Iterator[str], separator: str, place: Callable[[int], str]) -> Iterator[str]:
    """Yield what `"".join(text).split(separator)` returns, one part at a time.

    Raises ValueError as soon as a part is too long; `place` names the part with a given index.
    """
    number = length = 0
    pieces: list[str] = []
    tail = ""  # which may be the beginning of a separator
    for chunk in text:
        *parts, last = (tail + chunk).split(separator)
        for part in parts:
            yield "".join([*pieces, part])
            number, length, pieces = number + 1, 0, []
        end = max(0, len(last) - len(separator) + 1)
        pieces.append(last[:end])
        tail = last[end:]
        length += end
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(place(number))
    yield "".join([*pieces, tail])


def utf8_lines(text: Iterator[str], place: Callable[[int], str]) -> Iterator[bytes]:
    """Yield the lines of a text in UTF-8, with their line ends.

    Three times as fast as `split_stream`, and with the same ValueError on a line that is too long.
    """
    number = length = 0
    pieces: list[bytes] = []  # of a line that continues in the next chunk
    for chunk in text:
        for line in io.BytesIO(chunk.encode("utf-8", "surrogatepass")):
            pieces.append(line)
            if line.endswith(b"\n"):
                yield b"".join(pieces)
                number, length, pieces = number + 1, 0, []
            else:
                length += len(line)
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(place(number))
    if pieces:
        yield b"".join(pieces)


def read_all(text: Iterator[str], name: str) -> str:
    """Return all of a text. Raises ValueError as soon as it is too long."""
    pieces: list[str] = []
    length = 0
    for chunk in text:
        pieces.append(chunk)
        length += len(chunk)
        if length > MAX_DOCUMENT_BYTES:
            raise too_long_error(name)
    return "".join(pieces)


def is_too_long(text: str) -> bool:
    """Return True if a text has more than MAX_DOCUMENT_BYTES in UTF-8."""
    if len(text) * 4 <= MAX_DOCUMENT_BYTES:  # a character has at most 4 bytes
        return False
    return len(text.encode("utf-8", "surrogatepass")) > MAX_DOCUMENT_BYTES


def too_long_error(place: str) -> ValueError:
    """Return the error for a document that is too long."""
    return ValueError(
        f"{place} is longer than {MAX_DOCUMENT_BYTES:,} bytes, the most that one document may "
        'have; cut it into smaller ones (corpus.separator, such as "\\n\\n\\n", does so with texts)'
    )
