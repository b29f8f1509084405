"""params.yaml, dvc.yaml and dvc.lock as plain Python.

YAML 1.2 is read, as DVC reads it: `3e-4` is a number, and a key given twice is refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages.runtime.redaction import redacted

PARAMS_FILE = Path("params.yaml")
SURROGATES = re.compile("[\ud800-\udfff]")


class ParamsError(ValueError):
    """A params file that cannot be used; the message names each key that is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


def read_params(file: Path = PARAMS_FILE) -> dict[str, Any]:
    """The file's content as plain dicts and lists. Raises ParamsError when it is no mapping."""
    try:
        return parse_params(file.read_text(encoding="utf-8"), file)
    except UnicodeDecodeError as error:
        raise ParamsError(f"{file} is not UTF-8: {error}") from None
    except FileNotFoundError:
        raise ParamsError(f"{file} is missing; `make use PRESET=shakespeare` writes one") from None


def parse_params(text: str, file: Path) -> dict[str, Any]:
    """Return the content of a text that is, or will be, in `file`. Raises ParamsError."""
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{file} is not valid YAML: {yaml_fault(error)}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file} must hold sections, such as `train:`")
    for text in texts_in(content):
        if SURROGATES.search(text):
            whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            raise ParamsError(
                f"{file}: {text!r} is written with escapes of JSON that YAML does not have, and "
                f"DVC reads no such file; write {whole!r}"
            )
    return content


def texts_in(content: Any) -> Iterator[str]:
    """All texts in what was read, keys included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from texts_in(key)
            yield from texts_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts_in(value)


def yaml_fault(error: YAMLError) -> str:
    """What is wrong, where, and in what, in one line."""
    if not isinstance(error, MarkedYAMLError) or not (mark := error.problem_mark):
        return str(error).splitlines()[0]
    about = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if not (begun := error.context_mark):
        return about
    return f"{about}, {error.context} that begins in line {begun.line + 1}"
