"""Workspaces: their files, what they share with the project, the experiments they become."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipelines.workspace import (
    check_experiment_name,
    check_repository,
    create,
    draft_of,
    remove,
    save,
    slug,
    workspace_of,
)


def test_a_workspace_has_the_files_of_the_moment_and_becomes_an_experiment(
    new_project: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(seed="5")  # edited and not committed, as are the texts below
    folder = project.folder
    monkeypatch.chdir(folder)
    (folder / "texts/new.txt").write_text("new")
    (folder / "texts/1.txt").unlink()
    (folder / "weights/mine").mkdir()
    (folder / "weights/mine/model.safetensors").write_bytes(b"weights")
    (folder / ".cache/tokens").mkdir(parents=True, exist_ok=True)
    (folder / ".cache/gpt2.tiktoken").write_text("ranks")
    (folder / "texts/large.txt").write_text("large")
    done = project.run("dvc", "add", "texts/large.txt")
    assert done.returncode == 0, done.stdout

    lock = YAML(typ="safe").load(folder / "dvc.lock")
    (output,) = lock["stages"]["clean"]["outs"]
    (folder / ".dvc/cache/files/md5" / output["md5"][:2] / output["md5"][2:]).unlink()

    place = workspace_of(folder, "shakespeare · lr 0.02", "12345678-90ab")
    create(place, None, {"train.max_steps": 30}, "weights/mine")
    inside = place.folder
    assert inside == folder / "runs/workspaces/shakespeare-lr-0.02-567890ab"
    assert workspace_of(folder, "whatever", "12345678-90ab") == place
    assert workspace_of(folder, "next", "12345678-ffff") != place  # ids that begin with the time
    draft_of(place).mkdir()
    assert workspace_of(folder, "x", "12345678-90ab") == place
    params = (inside / "params.yaml").read_text()
    assert "max_steps: 30" in params
    assert params.replace("max_steps: 30", "max_steps: 100") == (folder / "params.yaml").read_text()
    assert (inside / "texts/new.txt").read_text() == "new"
    assert not (inside / "texts/1.txt").exists()
    assert (inside / "texts/large.txt").read_text() == "large"
    assert (inside / "weights/mine/model.safetensors").read_bytes() == b"weights"
    assert (inside / ".cache/gpt2.tiktoken").read_text() == "ranks"
    assert not (inside / ".cache/tokens").exists()  # tokenize removes what it does not need
    shards = "data/shards/manifest.json"
    assert (inside / shards).read_bytes() == (folder / shards).read_bytes()
    assert not (inside / "data/clean").exists()
    (compiled,) = (inside / "nanogpt/__pycache__").glob("config.*.pyc")
    assert compiled.read_bytes()[8:12] == int(
        (inside / "nanogpt/config.py").stat().st_mtime
    ).to_bytes(4, "little")  # else Python compiles again
    with Repo(str(inside)) as repo, Repo(str(folder)) as own:
        assert repo.cache.local_cache_dir == own.cache.local_cache_dir

    (folder / "texts/new.txt").write_text("edited later")
    assert (inside / "texts/new.txt").read_text() == "new"
    create(place, None, {"train.max_steps": 31}, None)  # kept as it is
    assert (inside / "params.yaml").read_text() == params

    done = replace(project, folder=inside).run("dvc", "repro", "-s", "weights")
    assert done.returncode == 0, done.stdout
    check_experiment_name(folder, "mine")
    assert save(place, "mine", ["weights"]) == "mine"
    second = save(place, "mine", ["weights"])  # as if another run had taken the name meanwhile
    assert second == inside.name
    remove(place)
    assert not inside.exists()
    listed = project.run("dvc", "exp", "list", "--name-only").stdout
    assert sorted(listed.split()) == ["mine", second]
    with pytest.raises(ValueError, match=r"experiment: 'mine' exists; .*dvc exp remove mine"):
        check_experiment_name(folder, "mine")


def test_a_project_without_a_commit_cannot_have_experiments(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"no git commit.*git commit -m start"):
        check_repository(tmp_path)


@pytest.mark.parametrize("name", ["two words", "a/b", "x..y", "-x", ""])
def test_names_that_git_does_not_allow_are_refused(tmp_path: Any, name: str) -> None:
    with pytest.raises(ValueError, match="is not a name that git allows"):
        check_experiment_name(tmp_path, name)


def test_titles_become_names() -> None:
    assert slug("shakespeare · lr 0.02, steps 9") == "shakespeare-lr-0.02-steps-9"
    assert slug("歌") == "run"
    assert len(slug("x" * 300)) == 80
