"""`make run` where DVC would not start: the way out is named before anything runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as an archive holds it, in no git repository, its environment set up."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the `make test` that runs this
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("dvc", "python"):
        (tmp_path / ".venv/bin" / name).symlink_to(Path(sys.executable).with_name(name))
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def test_an_archive_must_become_a_repository_or_do_without(archive: Path) -> None:
    def make_run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", "run"], cwd=archive, capture_output=True, text=True)

    refused = make_run()
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("This is not a git repository")
    for command in (["git", "init", "-q"], refused.stderr.split('"')[3].split()):
        subprocess.run(command, cwd=archive, check=True)
        assert make_run().stdout.startswith("python -m stages check\n")
        shutil.rmtree(archive / ".git", ignore_errors=True)
