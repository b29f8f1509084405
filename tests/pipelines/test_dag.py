"""The stages of the flow come from dvc.yaml only."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.dag import Stage, read_stages


def test_stages_come_in_topological_order(template: Any) -> None:
    names = [stage.name for stage in read_stages(template.folder)]
    assert names[:4] == ["download", "clean", "tokenize", "shard"]
    assert set(names[4:]) == {"statistics", "weights", "train", "evaluate", "sample"}
    assert names.index("evaluate") > max(names.index("statistics"), names.index("train"))


def test_a_target_includes_its_dependencies(template: Any) -> None:
    names = [stage.name for stage in read_stages(template.folder, "shard")]
    assert names == ["download", "clean", "tokenize", "shard"]


def test_an_unknown_target_is_refused_with_the_known_ones(template: Any) -> None:
    with pytest.raises(ValueError, match="'shards' is not a stage"):
        read_stages(template.folder, "shards")


def test_code_from_an_archive_is_refused_with_the_fix(
    template: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(template.folder / name, tmp_path)
    with pytest.raises(ValueError, match=r"has no \.dvc folder: .*`dvc init --no-scm`"):
        read_stages(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    with pytest.raises(ValueError, match=r"is not a git repository.*core\.no_scm true") as caught:
        read_stages(tmp_path)
    command = str(caught.value).split("`")[3]
    assert command == "dvc config --local core.no_scm true"
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    assert "train" in [stage.name for stage in read_stages(tmp_path)]


def test_a_new_stage_needs_no_code(copy_of_built: Any) -> None:
    file: Path = copy_of_built.folder / "dvc.yaml"
    text = file.read_text()
    meta = "    meta: {device: true, contact: me}\n\n"
    stage = f"  publish:\n    cmd: touch published\n    deps: [samples]\n{meta}"
    file.write_text(text.replace("plots:\n  - learning", f"{stage}plots:\n  - learning"))
    assert read_stages(copy_of_built.folder)[-1] == Stage("publish", resumable=False, device=True)
