"""The parameters of a run: the form that Prefect makes of them, and the params they lead to."""

from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema

from pipelines.build import build
from pipelines.parameters import Overrides, content_of, write_params
from stages.params.sections import SECTIONS
from stages.runtime.yaml_files import ParamsError, read_params

ROOT = Path(__file__).parents[2]


def properties() -> dict[str, dict[str, Any]]:
    """Return the schema of each key that can be overridden."""
    schema = parameter_schema(build).model_dump()
    found: dict[str, dict[str, Any]] = schema["definitions"]["Overrides"]["properties"]
    return found


def test_the_form_offers_every_key_of_the_params_with_its_description() -> None:
    keys = {f"{s}.{key}": f for s, m in SECTIONS.items() for key, f in m.model_fields.items()}
    form = properties()
    assert form.keys() == keys.keys()
    for key, field in keys.items():
        assert form[key]["title"] == key
        assert form[key].get("description") == field.description


def test_the_form_sends_nothing_where_nothing_was_entered() -> None:
    for key, schema in properties().items():
        assert "default" not in schema, key
        assert schema.get("type") != "boolean", f"{key}: a switch that is off is sent as false"


def test_the_first_parameters_have_defaults_that_the_server_accepts() -> None:
    schema = parameter_schema(build).model_dump()["properties"]
    assert schema["preset"]["default"] in schema["preset"]["enum"]
    assert schema["target"]["default"] in schema["target"]["enum"]
    assert {"shakespeare", "own-text"} <= set(schema["preset"]["enum"])
    assert "train" in schema["target"]["enum"]


def test_what_is_given_has_one_order() -> None:
    given = {"train.max_steps": 9, "clean.deduplicate": False, "train.seed": 2}
    assert list(Overrides(**given).given()) == [
        "clean.deduplicate",
        "train.max_steps",
        "train.seed",
    ]
    assert Overrides(**given).model_dump() == given


PACKAGE = {"name": "some-texts", "version": "9", "sha256": "0" * 64, "members": "*.txt"}
FOLDER = {"source": "files", "path": "texts/b"}
SIGNED = {"url": "https://host/a.txt?X-Amz-Signature=5ec237", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "corpus",
    [
        {"source": "url", "urls": [SIGNED]},
        {"source": "package", "package": PACKAGE},
        {"source": "mixture", "mixture": {"a": FOLDER, "b": {**FOLDER, "glob": "*.md"}}},
    ],
)
def test_values_with_parts_reach_params_yaml_as_they_are(
    tmp_path: Path, corpus: dict[str, Any]
) -> None:
    """A URL keeps its signature, and a corpus of a mixture inherits what it lacks."""
    given = {f"corpus.{key}": value for key, value in corpus.items()}
    overrides = Overrides(**given).given()
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    (tmp_path / "texts/b").mkdir(parents=True)
    content = content_of("own-text", overrides, tmp_path)
    write_params("own-text", overrides, tmp_path)
    written = read_params(tmp_path / "params.yaml")
    assert written == content
    assert {key: written["corpus"][key] for key in corpus} == corpus


def test_overrides_change_a_preset(tmp_path: Path) -> None:
    content = content_of("shakespeare-char", {"train.max_steps": 7000}, ROOT)
    assert content["train"]["max_steps"] == 7000
    assert content["tokenize"]["tokenizer"] == "char"
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    write_params("shakespeare-char", {"train.max_steps": 7000}, tmp_path)
    assert read_params(tmp_path / "params.yaml") == content


def test_overrides_keep_the_comments_of_params_yaml(tmp_path: Path) -> None:
    before = "# mine\ntrain:\n  max_steps: 5  # few\n  seed: 1\n"
    (tmp_path / "params.yaml").write_text(before)
    write_params(None, {"train.seed": 2}, tmp_path)
    assert (tmp_path / "params.yaml").read_text() == before.replace("seed: 1", "seed: 2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.max_step": 5}, r"train.max_step is not a known key; did you mean .*max_steps"),
        ({"trian.max_steps": 5}, r"trian.max_steps is not a known key; did you mean train.max"),
        ({"train.max_steps": "many"}, r"train.max_steps is 'many'"),
        ({"train.max_steps": 0}, r"train.max_steps is 0: .* greater than or equal to 1"),
        ({"train.batch_tokens": 1000}, r"train.batch_tokens 1000 is not a multiple of model.bl"),
        ({"max_steps": 5}, r"max_steps is not a known key"),
    ],
)
def test_overrides_that_are_not_allowed_are_refused(
    overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        content_of("shakespeare", overrides, ROOT)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ParamsError, match=r"preset: 'bard' is not one of .*shakespeare"):
        content_of("bard", {}, ROOT)
