"""The git commit in a model's lineage, or the reason why there is none."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.split import SplitParams
from stages.shard import stage as shard
from stages.shard.params import ShardParams
from stages.tracking.description import changed_tag
from stages.train.lineage import code_state


def git(*arguments: str) -> str:
    """Run git in the current folder; return its output."""
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", *who, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the current folder a source tree outside of any repository."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    (folder / "stages/train").mkdir(parents=True)
    (folder / "stages/train/stage.py").write_text("print('train')\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def repository(archive: Path) -> Path:
    """Turn the source tree into a repository with one commit."""
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return archive


def problem() -> str:
    """Return why there is no commit; fail if there is one."""
    state = code_state()
    assert state["git_commit"] is None
    assert state["git_changed"] is None
    assert changed_tag(state) == f"unknown: {state['git_problem']}"
    return str(state["git_problem"])


def test_commit_and_changed_files_are_named(repository: Path) -> None:
    (repository / "café.py").write_text("1\n")
    git("add", "-A")
    git("commit", "-qm", "more")
    commit = git("rev-parse", "HEAD")
    state = code_state()
    assert (state["git_commit"], state["git_changed"]) == (commit, [])
    assert state["git_problem"] is None
    assert changed_tag(code_state()) == "nothing"
    (repository / "café.py").write_text("2\n")
    assert code_state()["git_changed"] == ["café.py"]


def test_a_shallow_clone_has_a_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("commit", "-q", "--allow-empty", "-m", "more")
    git("clone", "-q", "--depth", "1", repository.as_uri(), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    state = code_state()
    assert (state["git_commit"], state["git_problem"]) == (git("rev-parse", "HEAD"), None)


def test_a_source_archive_has_none(archive: Path) -> None:
    assert problem().startswith("git failed: not a git repository")


def test_without_git_there_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert problem() == "git cannot be run (No such file or directory)"


def test_a_repository_without_a_commit_has_none(archive: Path) -> None:
    git("init", "-q")
    git("add", "-A")
    assert problem() == "the repository has no commit yet"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to another user")
def test_a_repository_of_another_user_has_none_and_the_fix_is_named(repository: Path) -> None:
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 65534, 65534)
    said = problem()
    assert said.startswith("git failed: detected dubious ownership in repository at ")
    assert said.endswith(
        f"; to allow it, run `git config --global --add safe.directory {repository}`"
    )


def test_a_worktree_whose_repository_is_gone_has_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("worktree", "add", "-q", str(tmp_path / "worktree"))
    shutil.rmtree(repository / ".git/worktrees")
    monkeypatch.chdir(tmp_path / "worktree")
    assert problem().startswith("git failed: not a git repository: ")


def test_the_commit_of_another_project_around_it_is_not_taken(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = repository / "downloads/project"
    (inner / "stages/train").mkdir(parents=True)
    (inner / "stages/train/stage.py").write_text("print('train')\n")
    monkeypatch.chdir(inner)
    assert problem() == f"the repository in {repository} is another project's"


def test_a_damaged_index_hides_the_changed_files_not_the_commit(repository: Path) -> None:
    commit = git("rev-parse", "HEAD")
    (repository / ".git/index").write_bytes(b"x")
    state = code_state()
    assert (state["git_commit"], state["git_changed"]) == (commit, None)
    assert "index file smaller than expected" in state["git_problem"]


def test_the_reason_is_in_english_and_git_writes_nothing(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    assert "not a git repository" in problem()
    assert not (archive / ".git").exists()


def test_a_training_without_a_commit_prints_why_in_one_line(
    archive: Path,
    tokens: Path,
    split: SplitParams,
    train_tiny: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = ShardParams(shard_tokens=1024, weights=None, max_repetition=1)
    shard.run(params, split, tokens, archive / "data/shards")
    capsys.readouterr()
    train_tiny(archive / "data/shards", archive / "models/gpt")
    code = json.loads((archive / "models/gpt/lineage.json").read_text())["code"]
    assert (code["git_commit"], code["git_problem"]) == (None, problem())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if problem() in line)
    assert line.startswith("train: lineage.json has no git information")
