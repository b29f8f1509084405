"""The parameters of a run: a preset, values that override it, and the resulting params.yaml.

The form in Prefect's UI is generated from the same descriptions, types and ranges that check
params.yaml, so a new option appears in it by itself.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from stages.formats.presets import PRESETS
from stages.lib.params import unknown_key
from stages.params.presets import preset_content, preset_text
from stages.params.sections import SECTIONS, check_content
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError, read_params

NULL_TAG = "tag:yaml.org,2002:null"


# Keys whose value is complete only with others: they are checked together, when the run begins.
PARTIAL: dict[str, Any] = {"corpus.mixture": dict[str, dict[str, JsonValue]] | None}


class OverridesBase(BaseModel):
    """Values for some keys of params.yaml; those that are not given stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_serializer(mode="wrap")
    def only_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not given."""
        return {key: value for key, value in serialize(self).items() if key in self.given()}

    _values: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def keep_values(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep the values as they are, for params.yaml: a validated one can be an object."""
        made = validate(data)
        if isinstance(data, Mapping):
            made._values = dict(data)
        return made

    def given(self) -> dict[str, Any]:
        """Return the values that are given, by dotted key, in the order of params.yaml."""
        fields = type(self).model_fields
        return {key: self._values[key] for key in fields if key in self.model_fields_set}


def optional(key: str, field: FieldInfo) -> Any:
    """Return the type and field of a key that may be left out."""
    annotation = PARTIAL.get(key, field.annotation)
    kind = Annotated[(annotation, *field.metadata)] if field.metadata else annotation
    return kind, Field(
        default=None, title=key, description=field.description, json_schema_extra=adapt_to_form
    )


def adapt_to_form(schema: dict[str, Any]) -> None:
    """Adapt a key's schema to Prefect's form and server.

    The form would send a default, or a switch that is off, where nothing was entered. The server
    allows null next to a `type`, and its message would then not name the type.
    """
    del schema["default"]
    kind = schema.pop("type", None)
    if kind == "boolean":
        schema["enum"] = [True, False]
    elif kind and "enum" not in schema:
        schema["allOf"] = [{"type": kind}]


Overrides: Any = create_model(
    "Overrides",
    __base__=OverridesBase,
    **{
        f"{section}.{key}": optional(f"{section}.{key}", field)
        for section, model in SECTIONS.items()
        for key, field in model.model_fields.items()
    },
)


def preset_names(presets: Path = PRESETS) -> list[str]:
    """Return the names of the presets."""
    return sorted(file.stem for file in presets.glob("*.yaml"))


def choice(names: Sequence[str]) -> WithJsonSchema:
    """Return an annotation that makes the form offer a list of names."""
    return WithJsonSchema({"type": "string", "enum": list(names)})


def content_of(preset: str | None, overrides: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the params of a run: those of a preset, else of params.yaml, with the overrides.

    Raises ParamsError naming every key that is unknown or has a value that is not allowed.
    """
    content = deepcopy(preset_content(preset_file(preset, root)) if preset else params_in(root))
    unknown = []
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        if section not in SECTIONS:
            unknown.append(unknown_section(dotted))
        elif key not in SECTIONS[section].model_fields:
            unknown.append(unknown_key(dotted, list(SECTIONS[section].model_fields)))
        elif isinstance(content.get(section), dict):
            content[section][key] = value
    if unknown:
        raise ParamsError("\n".join(f"overrides: {line}" for line in unknown))
    check_content(content, Path(f"presets/{preset}.yaml") if preset else PARAMS_FILE)
    return content


def unknown_section(dotted: str) -> str:
    """Return one line on a key whose section does not exist, with what it may have meant."""
    known = [f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields]
    close = difflib.get_close_matches(dotted, known, n=1)
    return f"{dotted} is not a known key; " + (
        f"did you mean {close[0]}?" if close else f"the sections are {', '.join(SECTIONS)}"
    )


def params_in(root: Path) -> dict[str, Any]:
    """Return the content of params.yaml in a project."""
    return read_params(root / PARAMS_FILE)


def preset_file(name: str, root: Path) -> Path:
    """Return the file of a preset. Raises ParamsError if there is none."""
    if name not in preset_names(root / PRESETS):
        raise ParamsError(
            f"preset: {name!r} is not one of {', '.join(preset_names(root / PRESETS))}"
        )
    return root / PRESETS / f"{name}.yaml"


def write_params(preset: str | None, overrides: Mapping[str, Any], root: Path) -> None:
    """Write a run's params to params.yaml in its workspace, comments included."""
    file = root / PARAMS_FILE
    if preset:
        file.write_text(preset_text(preset_file(preset, root)), encoding="utf-8")
    if overrides:
        yaml = round_trip()
        content = yaml.load(file)
        for dotted, value in overrides.items():
            section, _, key = dotted.partition(".")
            content[section][key] = value
        yaml.dump(content, file)


def round_trip() -> YAML:
    """Return a reader and writer of YAML that preserves everything that is not edited."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = sys.maxsize
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar(NULL_TAG, "null")
    )
    return yaml
