"""params.yaml as text: values in YAML, each with the description of its key as a comment."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from stages.lib.params import Section

COMMENT_COLUMN, WIDTH = 31, 100
PLAIN = re.compile(r"[A-Za-z][\w./-]*")  # a string that YAML reads as one without quotes
RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def render(
    header: str, content: Mapping[str, Mapping[str, Any]], sections: Mapping[str, type[Section]]
) -> str:
    """Return the text of a params file: `header`, then every section with its comments."""
    parts = [header.rstrip("\n")]
    for name, values in content.items():
        lines = commented(f"{name}:", sections[name].heading)
        for key, value in values.items():
            description = sections[name].model_fields[key].description or ""
            first, *more = entry(key, value)
            lines += [*commented(f"  {first}", description), *(f"  {line}" for line in more)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def entry(key: str, value: Any) -> Iterator[str]:
    """Yield the lines of a key: a mapping in a block of its own, anything else on one line."""
    if not isinstance(value, dict) or not value:
        yield f"{key}: {scalar(value)}"
        return
    yield f"{key}:"
    for inner, content in value.items():
        yield from (f"  {line}" for line in entry(inner, content))


def scalar(value: Any) -> str:
    """Return a value as YAML 1.2 on one line; JSON is a part of it."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)


def commented(line: str, description: str) -> list[str]:
    """Return a line with its comment, wrapped into the column for comments."""
    if not description:
        return [line]
    column = max(COMMENT_COLUMN, len(line) + 2)
    room = WIDTH - column - len("# ")
    if room < 40:  # a long value: its comment goes above it
        indent = " " * (len(line) - len(line.lstrip()))
        return [f"{indent}# {text}" for text in textwrap.wrap(description, WIDTH - 4)] + [line]
    first, *more = textwrap.wrap(description, room, break_long_words=False, break_on_hyphens=False)
    return [f"{line:<{column}}# {first}", *(f"{'':<{column}}# {text}" for text in more)]
