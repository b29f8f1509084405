"""Reader of .csv and .tsv files: the text of each row and the line where the row begins.

In a .csv file a field may be quoted and then hold commas, line breaks and doubled quotation marks
(RFC 4180). In a .tsv file a quotation mark is an ordinary character (IANA's
text/tab-separated-values), so that an unbalanced one swallows no rows.
"""

import csv
import sys
from collections.abc import Iterator
from typing import Any

from stages.lib.reasons import brief

# A quoted field of more lines is reported: songs and letters are shorter, and an unbalanced
# quotation mark makes one field of all rows up to the next mark.
LONG_FIELD_LINES = 100

DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
REMEDIES = {
    ".csv": "a text with a comma or a line break must be quoted",
    ".tsv": "quotation marks are characters in it, so a text with a tab or a line break needs a "
    ".csv or .jsonl file",
}


def table_texts(
    name: str, lines: Iterator[str], kind: str, column: str, max_bytes: int
) -> Iterator[tuple[int, str]]:
    """Yield the number of the line where each row begins, and the row's text in `column`.

    The first row names the columns. Each of the `lines` ends in a line feed and has no carriage
    return. Raises ValueError naming the line of a malformed row.
    """
    csv.field_size_limit(max_bytes)  # the default limit is 128 KiB
    rows = csv.reader(lines, **DIALECTS[kind])
    columns: list[str] = []
    long_fields: list[int] = []
    first = 1
    try:
        for row in rows:
            line, first = first, rows.line_num + 1
            if not row:
                continue
            if first - line > LONG_FIELD_LINES:
                long_fields += long_fields_in(row, line)
            if not columns:
                columns = row
                index = column_index(name, columns, column)
            elif len(row) != len(columns):
                raise ValueError(
                    f"{name}, line {line} has {len(row)} fields and the line of column names "
                    f"{len(columns)}; {REMEDIES[kind]}"
                )
            else:
                yield line, row[index]
    except csv.Error as error:
        raise ValueError(f"{name}, line {first} is not a valid table row: {error}") from None
    if not columns:
        raise ValueError(f"{name} is empty; a table begins with a line of column names")
    if long_fields:
        print(
            f"{name}: quoted fields of more than {LONG_FIELD_LINES} lines: {len(long_fields)}, "
            f"the first from line {long_fields[0]} on; if a quotation mark there has no partner, "
            "it made one text of many rows",
            file=sys.stderr,
        )


def long_fields_in(row: list[str], line: int) -> Iterator[int]:
    """Yield the line where each overlong field of a row begins; the row begins at `line`."""
    for field in row:
        breaks = field.count("\n")
        if breaks >= LONG_FIELD_LINES:
            yield line
        line += breaks


def column_index(name: str, columns: list[str], column: str) -> int:
    """Return the index of the text column. Raises ValueError if there is none of that name."""
    if column not in columns:
        held = brief(columns)
        raise ValueError(f"{name} has no column {column!r} (corpus.text_column); it has {held}")
    return columns.index(column)
