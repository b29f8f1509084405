"""Which edits `python -m stages accept` looks at; what it does with them is in test_pipeline.py."""

import json
from pathlib import Path

import pytest

from stages.params.presets import preset_content
from stages.params.sections import check_content
from stages.tools.accept import edited_stages, small

PRESETS = sorted((Path(__file__).parents[3] / "presets").glob("*.yaml"))

CODE = {"changed deps": {"nanogpt/model": "modified"}}


@pytest.fixture(autouse=True)
def lock(workspace: Path) -> None:
    """A stage that ran with two dependencies."""
    deps = [{"path": path, "md5": "a" * 32} for path in ("nanogpt/model", "data/shards")]
    (workspace / "dvc.lock").write_text(json.dumps({"stages": {"train": {"deps": deps}}}))


def test_edited_code_is_named_by_stage() -> None:
    assert edited_stages({"train": [CODE]}) == {"train": ["nanogpt/model"]}
    assert edited_stages({}) == {}


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ({"changed deps": {"data/shards": "modified"}}, "changed deps data/shards"),
        ({"changed deps": {"stages/lib/arrow.py": "new"}}, "changed deps stages/lib/arrow.py"),
        ({"changed deps": {"params.yaml": {"train.seed": "modified"}}}, "changed deps params.yaml"),
        ({"changed outs": {"models/gpt": "deleted"}}, "changed outs models/gpt"),
        ("changed command", "changed command"),
    ],
)
def test_what_is_more_than_an_edit_of_known_code_is_refused(
    reason: dict[str, dict[str, str]] | str, named: str
) -> None:
    with pytest.raises(ValueError, match=r"train is out of date for reasons other than") as caught:
        edited_stages({"train": [CODE, reason]})
    assert named in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_params_of_any_kind_become_valid_ones_for_the_miniatures_documents(preset: Path) -> None:
    content = preset_content(preset)
    content["corpus"] |= {"text_column": "content", "separator": "###"}
    content["evaluate"]["stride"] = 64
    made = small(content)
    check_content(made, Path("params.yaml"))
    assert (made["corpus"]["text_column"], made["corpus"]["separator"]) == ("text", None)
    assert made["model"]["position"] == preset_content(preset)["model"]["position"]
