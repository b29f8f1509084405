"""Names of revisions: what git and DVC know by them."""

import subprocess
from pathlib import Path

import pytest

from stages.report.revisions import commit_of


def git(*arguments: str) -> str:
    """Run git in the current folder; its output."""
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A repository with two commits, the newer one on the branch `main`; the older one first."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    made = []
    for message in ("older", "newer"):
        git("commit", "-q", "--allow-empty", "-m", message)
        made.append(git("rev-parse", "HEAD"))
    return made


def add_experiment(name: str, baseline: str, commit: str) -> None:
    """Name a commit as DVC names an experiment that began at `baseline`."""
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)


def test_a_branch_a_commit_and_an_experiment_are_found(commits: list[str]) -> None:
    older, newer = commits
    add_experiment("good-yolk", older, newer)
    git("update-ref", "refs/exps/exec/EXEC_BASELINE", older)  # DVC's own
    assert commit_of("main") == (newer, "commit")
    assert commit_of(older[:9]) == (older, "commit")
    assert commit_of("HEAD~1") == (older, "commit")
    assert commit_of("good-yolk") == (newer, "experiment")


@pytest.mark.parametrize("name", ["nosuch", "--help", "EXEC_BASELINE", "main main", ""])
def test_what_nobody_knows_is_refused(commits: list[str], name: str) -> None:
    git("update-ref", "refs/exps/exec/EXEC_BASELINE", commits[0])
    with pytest.raises(ValueError, match="no commit, branch, tag or experiment"):
        commit_of(name)


def test_a_name_of_several_experiments_is_refused(commits: list[str]) -> None:
    older, newer = commits
    add_experiment("good-yolk", older, newer)
    add_experiment("good-yolk", newer, older)
    with pytest.raises(ValueError, match="2 experiments are named good-yolk") as caught:
        commit_of("good-yolk")
    assert all(commit[:12] in str(caught.value) for commit in commits)
