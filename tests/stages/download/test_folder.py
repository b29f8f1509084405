import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.download.folder import check_copy, check_watched, text_files, user_files
from stages.download.params import IGNORED, CorpusParams, outputs
from stages.params.preflight import check_experiment
from stages.runtime.yaml_files import read_params

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("workspace")


def params(**changes: Any) -> CorpusParams:
    content = read_params(ROOT / "params.yaml")["corpus"]
    own = {"source": "files", "encoding": "auto", "package": None}  # as in presets/own-text.yaml
    return CorpusParams.model_validate({**content, **own, **changes})


def write(path: str | Path, text: str = "text") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def names(root: str, glob: str = "**/*", skipped: Counter[str] | None = None) -> list[str]:
    found = text_files(Path(root), glob, Counter() if skipped is None else skipped)
    return [file.name for file in found]


def watched(project: Path, folder: str) -> set[str]:
    """The files in a folder that DVC hashes, relative to it."""
    from dvc.fs import localfs
    from dvc.ignore import DvcIgnoreFilter

    root = project / folder
    found = DvcIgnoreFilter(localfs, str(project)).find(localfs, str(root))
    return {Path(file).relative_to(root).as_posix() for file in found}


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("glob", ["**/*", "**/*.txt", "*/*.txt", "album/*", "*/*/*.txt"])
def test_what_lies_behind_a_link_to_a_folder_is_left_out_and_named(glob: str) -> None:
    write("elsewhere/a.txt")
    write("elsewhere/deep/b.txt")
    write("texts/poems/c.txt")
    write("texts/poems/1/d.txt")
    for link in ("texts/album", "texts/poems/more"):
        Path(link).symlink_to(Path("elsewhere").absolute())
    skipped: Counter[str] = Counter()
    assert set(names("texts", glob, skipped)) <= {"poems/c.txt", "poems/1/d.txt"}
    linked = {"link to a folder, album": 1, "link to a folder, poems/more": 1}
    assert skipped == linked


def test_links_that_lead_around_in_a_circle_end() -> None:
    write("texts/a.txt")
    Path("texts/up").symlink_to("..")
    Path("texts/self").symlink_to(".")
    skipped: Counter[str] = Counter()
    assert names("texts", skipped=skipped) == ["a.txt"]
    assert skipped == {"link to a folder, self": 1, "link to a folder, up": 1}


def test_texts_that_all_lie_behind_a_link_are_refused_with_its_name() -> None:
    write("elsewhere/a.txt")
    Path("texts").mkdir()
    Path("texts/album").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(
        ValueError, match=r"left out: link to a folder, album \(1\); put your texts"
    ):
        user_files(params(), Counter())


def test_links_to_files_and_a_folder_that_is_a_link_itself_are_read_and_watched() -> None:
    write("elsewhere/a.txt")
    write("more/b.txt")
    Path("elsewhere/b.txt").symlink_to(Path("more/b.txt").absolute())
    Path("texts").symlink_to("elsewhere")
    assert names("texts") == ["a.txt", "b.txt"]
    assert watched(Path.cwd(), "texts") == {"a.txt", "b.txt"}


def test_a_dvc_project_inside_is_left_out_and_named() -> None:
    write("texts/a.txt")
    write("texts/songs/b.txt")
    Path("texts/songs/.dvc").mkdir()
    skipped: Counter[str] = Counter()
    assert names("texts", skipped=skipped) == ["a.txt"]
    assert skipped == {"DVC project of its own, songs": 1}
    assert "songs/b.txt" not in watched(Path.cwd(), "texts")


# --- what is read is watched ---------------------------------------------------------------------

PATTERNS = (ROOT / ".dvcignore").read_text().splitlines()
IGNORED_NAMES = sorted(
    {part for line in PATTERNS if not line.startswith("#") for part in line.split("/") if part}
)
NAMES = st.one_of(
    st.sampled_from([*IGNORED_NAMES, ".dvc", ".git", ".hg", "data", "build", "a", "dvc.lock"]),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=9
    ),
).filter(lambda name: name not in (".", "..", ".dvcignore", "**") and len(name.encode()) < 200)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(NAMES, max_size=3), NAMES), min_size=1, max_size=6))
@example([(["runs"], "diary"), (["a", "__pycache__"], "b"), ([], "dvc_plots"), ([".venv"], "c")])
def test_every_file_that_is_read_is_one_that_dvc_watches(
    files: list[tuple[list[str], str]],
) -> None:
    with TemporaryDirectory() as folder:
        project = Path(folder).resolve()
        shutil.copy(ROOT / ".dvcignore", project)
        for parents, name in files:
            try:
                write(project.joinpath("texts", *parents, f"{name}.txt"))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue  # one name for a file and a folder
        if (project / "texts/.dvc").exists():
            return  # refused: see below
        read = {file.name for file in text_files(project / "texts", "**/*", Counter())}
        assert read <= watched(project, "texts")


def test_no_name_in_the_users_folder_hides_a_text_from_dvc() -> None:
    shutil.copy(ROOT / ".dvcignore", ".")
    for name in IGNORED_NAMES:
        write(f"texts/{name}/diary.txt")
    assert len(IGNORED_NAMES) >= 5
    assert {f"{name}/diary.txt" for name in IGNORED_NAMES} == watched(Path.cwd(), "texts")


def test_the_folders_that_no_corpus_may_lie_in_are_those_of_the_pipeline() -> None:
    assert {"data/corpus", "models/gpt", "metrics/evaluate.json"} < set(outputs())
    for out in outputs():
        with pytest.raises(ValueError, match="what the pipeline itself writes"):
            params(path=write(out).as_posix())
    anchored = [line.strip("/") for line in PATTERNS if re.fullmatch(r"/[^/]+/", line)]
    assert sorted(IGNORED) == sorted([*anchored, ".dvc", ".git"])


def test_hidden_files_are_counted_but_for_the_one_that_keeps_a_folder_in_git() -> None:
    for name in ("a.txt", ".gitkeep", ".draft.txt"):
        write(f"texts/{name}")
    skipped: Counter[str] = Counter()
    assert names("texts", skipped=skipped) == ["a.txt"]
    assert skipped == {"hidden file": 1}


# --- what DVC cannot watch -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["mine", "mine/texts", "mine/texts/a.txt"])
def test_texts_inside_another_dvc_project_are_refused(path: str) -> None:
    write("mine/texts/a.txt")
    Path("mine/.dvc").mkdir()
    for check in (
        lambda: check_watched(Path(path)),
        lambda: user_files(params(path=path), Counter()),
    ):
        with pytest.raises(ValueError, match="'mine' is a separate DVC project"):
            check()


def test_names_that_are_not_utf8_are_all_reported() -> None:
    for name in (b"caf\xe9.txt", b"\xff.pdf", "café.txt".encode()):
        Path("texts", os.fsdecode(name)).parent.mkdir(exist_ok=True)
        Path("texts", os.fsdecode(name)).write_text("text")
    words = r"not UTF-8, .*: texts/\\xff.pdf, texts/caf\\xe9.txt; rename them"
    for check in (lambda: check_watched(Path("texts")), lambda: user_files(params(), Counter())):
        with pytest.raises(ValueError, match=words) as caught:
            check()
        str(caught.value).encode()


def test_a_pipe_is_refused_before_dvc_waits_for_it() -> None:
    Path("texts/deep").mkdir(parents=True)
    os.mkfifo("texts/deep/p.txt")
    with pytest.raises(ValueError, match=r"'texts/deep/p\.txt' is a pipe"):
        check_watched(Path("texts"))


def test_a_file_and_a_folder_that_dvc_can_watch_are_no_problem() -> None:
    check_watched(write("texts/a.txt"))
    check_watched(Path("texts"))
    with pytest.raises(ValueError, match=r"there is no 'songs', which DVC watches"):
        check_watched(Path("songs"))


# --- corpus.path ---------------------------------------------------------------------------------


def refused(path: Any, *words: str) -> None:
    with pytest.raises(ValueError) as caught:  # the words are compared below
        params(path=path)
    for word in words:
        assert word in str(caught.value)


def test_a_path_that_the_shell_would_expand_is_refused_written_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused("~/songs", "'~/songs' is not expanded by DVC", f"write {tmp_path}/songs")
    refused("$HOME/songs", f"write {tmp_path}/songs")
    assert params(path="~nobody-of-that-name/a").path == "~nobody-of-that-name/a"
    write("~/songs/a.txt")  # a folder of that name, however odd
    assert params(path="~/songs").path == "~/songs"


def test_no_path_is_refused_whatever_the_source() -> None:
    refused(None, "DVC watches it whatever the source is; name a folder, such as texts")


@pytest.mark.parametrize(
    "path",
    [".", "..", "/", "data", "data/corpus", "texts/../samples", "runs/mine", ".venv", "plots/a"],
)
def test_a_path_to_what_the_pipeline_writes_is_refused(path: str) -> None:
    refused(path, "is, or holds, what the pipeline itself writes", "such as texts")


@pytest.mark.parametrize(
    "path", ["texts", "texts/runs", "data/mine", "my songs", "/srv/songs", "../s"]
)
def test_any_other_path_is_taken(path: str) -> None:
    assert params(path=path).path == path


# --- a copy of the project -----------------------------------------------------------------------


def git(*arguments: str, folder: Path) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def copy() -> Path:
    """A copy of the workspace as `dvc exp run --temp` makes it: of what git knows."""
    workspace, copy = Path("home"), Path("home/.dvc/tmp/exps/tmp1")
    write(workspace / "texts/kept.txt")
    write(workspace / "texts/.gitkeep")
    git("init", folder=workspace)
    git("add", "texts", folder=workspace)
    shutil.copytree(workspace / "texts", copy / "texts")
    return copy.absolute()


def check(copy: Path, **changes: Any) -> None:
    check_copy(params(**changes), copy, Path("home").absolute())


@pytest.mark.parametrize("mixture", [False, True])
def test_a_copy_that_lacks_a_text_is_refused_with_its_name_and_the_way_out(
    copy: Path, mixture: bool
) -> None:
    changes = {"source": "mixture", "mixture": {"mine": {"source": "files"}}} if mixture else {}
    check(copy, **changes)
    write("home/texts/songs/new.txt")
    write("home/texts/cover.jpg")
    words = r"without 1 of your texts.*: songs/new\.txt; `git add texts`, or `dvc add texts` as"
    with pytest.raises(ValueError, match=words):
        check(copy, **changes)
    shutil.rmtree(copy / "texts")
    with pytest.raises(ValueError, match=words):
        check(copy, **changes)


def test_a_text_that_git_got_after_the_copy_was_made_is_none_of_its(copy: Path) -> None:
    write("home/texts/new.txt")
    git("add", "texts", folder=Path("home"))
    check(copy)


def test_a_copy_outside_of_git_is_refused_too(copy: Path) -> None:
    write("home/texts/new.txt")
    shutil.rmtree("home/.git")
    with pytest.raises(ValueError, match="without 1 of your texts"):
        check(copy)


def test_texts_that_are_not_in_use_or_at_an_absolute_path_may_be_missing(copy: Path) -> None:
    write("home/texts/new.txt")
    check(copy, glob="kept.*")
    check(copy, path=str(Path("home/texts").absolute()))
    package = {"name": "poems", "version": "1.0", "sha256": "0" * 64, "members": "*.txt"}
    check(copy, source="package", package=package)


def test_only_a_project_that_dvc_says_is_a_copy_is_compared(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("home/texts/new.txt")
    workspace = Path("home").absolute()
    monkeypatch.chdir(copy)
    check_experiment(params())
    monkeypatch.setenv("DVC_ROOT", str(copy))
    check_experiment(params())
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    with pytest.raises(ValueError, match=r"without 1 of your texts.*: new\.txt"):
        check_experiment(params())
