"""Reading of params.yaml, dvc.yaml and dvc.lock as plain Python objects.

They are YAML 1.2, as for DVC: `3e-4` is a number, and a duplicate key is refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages.runtime.redaction import redacted

DVC_FILE, PARAMS_FILE = Path("dvc.yaml"), Path("params.yaml")
SURROGATES = re.compile("[\ud800-\udfff]")


class ParamsError(ValueError):
    """An invalid params file; the message names each key that is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


def read_params(file: Path = PARAMS_FILE) -> dict[str, Any]:
    """Return a file's content as dicts and lists. Raises ParamsError if it is not a mapping."""
    try:
        return parse_params(file.read_text(encoding="utf-8"), file)
    except UnicodeDecodeError as error:
        raise ParamsError(f"{file} is not UTF-8: {error}") from None
    except FileNotFoundError:
        raise ParamsError(f"{file} is missing; `make use PRESET=shakespeare` writes one") from None


def parse_params(text: str, file: Path) -> dict[str, Any]:
    """Parse the text of `file`, which need not exist. Raises ParamsError if it is invalid."""
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{file} is not valid YAML: {describe_yaml_error(error)}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file} must contain sections, such as `train:`")
    for string in strings_in(content):
        if SURROGATES.search(string):
            joined = string.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            raise ParamsError(
                f"{file}: {string!r} uses JSON escapes that YAML does not have, so DVC cannot read "
                f"the file; write {joined!r}"
            )
    return content


def strings_in(content: Any) -> Iterator[str]:
    """Yield every string in nested dicts and lists, keys included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from strings_in(key)
            yield from strings_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings_in(value)


def describe_yaml_error(error: YAMLError) -> str:
    """Return one line that says what is wrong in a YAML file, and where."""
    if not isinstance(error, MarkedYAMLError) or not (mark := error.problem_mark):
        return str(error).splitlines()[0]
    problem = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if not (context := error.context_mark):
        return problem
    return f"{problem}, {error.context} that begins in line {context.line + 1}"
