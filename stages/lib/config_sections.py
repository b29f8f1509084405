"""Sections of params.yaml that are made of the options in `nanogpt.config`."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import AfterValidator, Field, create_model

from nanogpt.config import Range
from stages.lib.params import Section

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound=Section)
C = TypeVar("C", bound="DataclassInstance")


def with_fields_of(*configs: type, without: Sequence[str] = ()) -> Callable[[type[S]], type[S]]:
    """Return a decorator that adds the fields of these dataclasses of `nanogpt.config` to a class.

    Every field is a key that must be given, whatever its default; its annotations are its range
    and, as text, its description. Type checkers do not see these fields, so code reads them from
    the config that `config_from` makes.
    """
    added: dict[str, Any] = {}
    for config in configs:
        for name, annotation in get_type_hints(config, include_extras=True).items():
            if name not in without:
                texts = (text for text in annotation.__metadata__ if isinstance(text, str))
                added[name] = (with_bounds(annotation), Field(description=next(texts)))

    def decorate(section: type[S]) -> type[S]:
        module, about = section.__module__, section.__doc__
        return create_model(
            section.__name__, __base__=section, __module__=module, __doc__=about, **added
        )

    return decorate


def config_from(section: Section, config: type[C], **others: Any) -> C:
    """Return a config whose values are those of the section's fields, and `others`."""
    names = [field.name for field in fields(config) if field.name not in others]
    return config(**{name: getattr(section, name) for name in names}, **others)


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
