import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from stages.lib.package_index import read_package

FILES = {"poems/b.txt": b"second", "poems/a.txt": b"first", "poems/notes.md": b"no"}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_matching_files_come_sorted_by_path(index: Any, kind: str) -> None:
    sha256 = getattr(index, f"add_{kind}")("poems", "1.0", FILES)
    files = list(read_package("poems", "1.0", sha256, "*poems/*.txt"))
    assert [content for _, content in files] == [b"first", b"second"]
    assert [Path(path).name for path, _ in files] == ["a.txt", "b.txt"]


def test_another_sha256_is_refused_and_the_actual_one_named(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", FILES)
    with pytest.raises(ValueError, match="has a different sha256 than expected") as caught:
        list(read_package("poems", "1.0", "0" * 64, "*.txt"))
    assert f"it is {sha256}" in str(caught.value)


def test_a_pattern_that_matches_nothing_is_refused(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", FILES)
    with pytest.raises(ValueError, match=r"no file in poems==1\.0 matches '\*\.csv'"):
        list(read_package("poems", "1.0", sha256, "*.csv"))


def test_folders_are_not_files(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", FILES)
    assert all(content for _, content in read_package("poems", "1.0", sha256, "poems/*"))


def test_an_index_that_does_not_answer_raises_connection_error(
    workspace: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_url}/simple/")
    with pytest.raises(ConnectionError, match=r"could not provide poems==1\.0") as caught:
        list(read_package("poems", "1.0", "0" * 64, "*"))
    assert "point `corpus` at files of your own" in str(caught.value)


def test_a_version_the_index_does_not_have_raises_value_error(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", FILES)
    with pytest.raises(ValueError, match=r"poems==2\.0"):
        list(read_package("poems", "2.0", sha256, "*"))


def test_a_python_without_pip_is_told_how_to_add_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create("bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(workspace / "bare" / "bin" / "python"))
    with pytest.raises(ValueError, match="python -m ensurepip"):
        list(read_package("poems", "1.0", "0" * 64, "*"))
