"""Strict reading of params.yaml, one section at a time.

Each stage declares its own section next to its code; `stages.tools.check` puts them together. YAML 1.2 is
read, as DVC reads it: `3e-4` is a number, and a key given twice is refused.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages.runtime.redaction import redacted

PARAMS_FILE = Path("params.yaml")
SURROGATES = re.compile("[\ud800-\udfff]")
S = TypeVar("S", bound="Section")


class ParamsError(ValueError):
    """A params file that cannot be used; the message names each key that is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Section(BaseModel):
    """Base of all sections: every key is required, none is unknown, types are exact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    renamed: ClassVar[Mapping[str, tuple[str, str]]] = {}  # old key: (new key, what it takes)


def joined(text: object) -> object:
    """Return a text with each pair of surrogates as the one character it encodes in JSON's escapes.

    What is no text is returned as it is. Raises ValueError at half of a pair.
    """
    if not isinstance(text, str) or not SURROGATES.search(text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError(f"{text!r} has half of a surrogate pair, which is no character") from None


Text = Annotated[str, BeforeValidator(joined)]


def zero_or_at_least(least: float) -> AfterValidator:
    """Return a validator that refuses what is above 0 and too small to calculate with."""

    def check(value: float) -> float:
        if 0 < value < least:
            raise ValueError(
                f"{value!r} is too small to calculate with; give 0, or {least} or more"
            )
        return value

    return AfterValidator(check)


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


def load_section(name: str, model: type[S], file: Path = PARAMS_FILE) -> S:
    """Read and check one section. Raises ParamsError."""
    content = read_params(file)
    if name not in content:
        raise ParamsError(f"{file}: the section `{name}:` is missing")
    return parse_section(name, model, content[name], file)


def parse_section(name: str, model: type[S], content: Any, file: Path) -> S:
    """Check one section's content. Raises ParamsError naming key, value and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [explain(name, model, entry) for entry in without_renamed(model, error)]
        raise ParamsError("\n".join(f"{file}: {line}" for line in lines)) from None


def without_renamed(model: type[Section], error: ValidationError) -> list[Mapping[str, Any]]:
    """Return the errors but for keys that are missing because they have their old names."""
    entries = error.errors()
    old = {entry["loc"] for entry in entries if entry["type"] == "extra_forbidden"}
    new = {(key,) for name, (key, _) in model.renamed.items() if (name,) in old}
    return [e for e in entries if e["type"] != "missing" or e["loc"] not in new]


def explain(name: str, model: type[Section], error: Mapping[str, Any]) -> str:
    """One line on one wrong key."""
    key = ".".join(str(part) for part in (name, *error["loc"]))
    if error["type"] == "extra_forbidden" and (renamed := model.renamed.get(error["loc"][0])):
        return f"{key} is now {name}.{renamed[0]}: {renamed[1]}"
    if error["type"] == "extra_forbidden":
        return unknown_key(key, part_at(model, error["loc"][:-1]))
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "model_type":
        return f"{key} is {error['input']!r}, where a section with keys of its own should be"
    if error["type"] == "value_error":  # ours, raised by a validator
        return f"{key}: {error['ctx']['error']}"
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def part_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys of the part of a section at `location`."""
    names = iter(name for name in location if isinstance(name, str))  # the others count in a list
    for name in names:
        inner = list(annotations_in(model.model_fields[name].annotation))
        model = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
        if any(get_origin(t) is dict for t in inner):
            next(names, None)  # the user's own name for an entry
    return list(model.model_fields)


def annotations_in(annotation: Any) -> Iterator[Any]:
    """A type and all types it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from annotations_in(inner)


def unknown_key(key: str, known: list[str]) -> str:
    """One line on a key that is none, with what it may have meant, or which there are."""
    before, dot, name = key.rpartition(".")
    close = difflib.get_close_matches(name, known, n=1)
    return f"{key} is not a known key; " + (
        f"did you mean {before}{dot}{close[0]}?" if close else f"known are {', '.join(known)}"
    )
