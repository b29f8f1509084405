"""Strict reading of params.yaml, one section at a time.

A section is a subclass of Section: its keys with their types, ranges and descriptions.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)

from stages.runtime.yaml_files import PARAMS_FILE, SURROGATES, ParamsError, read_params

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """Base of all sections: every key is required, none is unknown, types are exact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    heading: ClassVar[str] = ""  # what the section is about, for params.yaml
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
