"""Sections of params.yaml that are made of the options in `nanogpt.config`."""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Field, create_model

from nanogpt.config import Range
from stages.lib.params import Section


def section_of(*configs: Any, without: Sequence[str] = ()) -> Any:
    """Return a section with the fields of these dataclasses of `nanogpt.config`.

    Every field is a key that must be given, whatever its default; its annotations are its range
    and, as text, its description.
    """
    fields: dict[str, Any] = {}
    for config in configs:
        for name, annotation in get_type_hints(config, include_extras=True).items():
            if name not in without:
                texts = (text for text in annotation.__metadata__ if isinstance(text, str))
                fields[name] = (with_bounds(annotation), Field(description=next(texts)))
    return create_model("Section", __base__=Section, **fields)


def with_bounds(annotation: Any) -> Any:
    """Return a type whose values pydantic compares with each Range in its annotations."""
    if get_origin(annotation) is Annotated:
        kind, *about = get_args(annotation)
        made = with_bounds(kind)
        for one in about:
            if isinstance(one, Range):
                bounds = {name: getattr(one, name) for name in ("ge", "gt", "le", "lt")}
                made = Annotated[made, Field(**bounds), AfterValidator(one.check)]
        return made
    if get_origin(annotation) is UnionType or get_origin(annotation) is Union:
        return Union[tuple(map(with_bounds, get_args(annotation)))]  # noqa: UP007  # of a tuple
    return annotation
