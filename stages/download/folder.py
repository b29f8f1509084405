"""The user's own files in corpus.path: which are read, and checks that DVC watches all of them.

DVC neither follows links to folders nor looks into another DVC project, so that both are left out
here too: a file that DVC does not watch could change without a stage running again.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stages.download.archives import COMPRESSIONS
from stages.download.file_groups import TextFile
from stages.download.file_streams import READABLE, is_hidden, is_readable, skip_reason
from stages.download.params import CorpusParams
from stages.lib.reasons import and_left_out

GITKEEP = ".gitkeep"  # keeps an empty folder in git; nobody wonders where its text went
MAX_LISTED = 20  # files in one message


def user_files(params: CorpusParams, skipped: Counter[str]) -> list[TextFile]:
    """Return the files of the source `files`, sorted by path, and count the others in `skipped`.

    Raises ValueError if there are none.
    """
    root = Path(params.path)
    if not root.exists():
        raise ValueError(f"corpus.path {params.path!r} is neither a file nor a folder")
    check_names(root)
    check_not_nested_project(root)
    files = text_files(root, params.glob, skipped)
    if not files:
        packed = ", ".join(f".txt{suffix}" for suffix in COMPRESSIONS)
        raise ValueError(
            f"corpus.path {params.path!r} holds no {', '.join(READABLE)} file ({packed} too) that "
            f"matches corpus.glob {params.glob!r}{and_left_out(skipped)}; put your texts there, or "
            "choose another folder"
        )
    return files


def text_files(root: Path, glob: str, skipped: Counter[str]) -> list[TextFile]:
    """Return the files that there is a reader for, and count the others in `skipped`."""
    if root.is_file():
        files = [root]
    else:
        unwatched = unwatched_folders(root)
        skipped.update(unwatched.values())
        paths = sorted(path for path in root.glob(glob) if not path.is_dir())
        if unwatched:  # a glob such as */*.txt leads into linked folders
            paths = [path for path in paths if unwatched.keys().isdisjoint(path.parents)]
        files = [path for path in paths if path.is_file()]
        if len(files) < len(paths):
            skipped["broken link or device"] += len(paths) - len(files)
    visible = [path for path in files if not is_hidden(path.relative_to(root))]
    hidden = [path for path in files if is_hidden(path.relative_to(root))]
    if counted := sum(path.name != GITKEEP for path in hidden):
        skipped["hidden file"] += counted
    skipped.update(skip_reason(path.name) for path in visible if not is_readable(path.name))
    return [
        TextFile(name=path.name if path == root else name_in(root, path), path=path)
        for path in visible
        if is_readable(path.name)
    ]


def name_in(root: Path, path: Path) -> str:
    """Return the path of a file or folder relative to `root`, with forward slashes."""
    return path.relative_to(root).as_posix()


def unwatched_folders(root: Path) -> dict[Path, str]:
    """Return the folders in `root` that DVC does not look into, each with its reason."""
    unwatched: dict[Path, str] = {}
    for parent, folders, _ in os.walk(root, onerror=raise_error):
        for name in list(folders):
            path = Path(parent, name)
            if path.is_symlink():
                reason = "link to a folder"
            elif (path / ".dvc").exists():
                reason = "DVC project of its own"
            else:
                continue
            folders.remove(name)
            if not is_hidden(path.relative_to(root)):
                unwatched[path] = f"{reason}, {name_in(root, path)}"
    return unwatched


def raise_error(error: OSError) -> None:
    """Raise the error of an unreadable folder, which os.walk would ignore."""
    raise error


def check_watched(root: Path) -> None:
    """Raise ValueError naming what DVC cannot hash: it would fail unclearly or wait forever."""
    if not root.exists():
        raise ValueError(
            f"there is no {str(root)!r}, which DVC watches; create it or choose another folder"
        )
    check_names(root)
    check_not_nested_project(root)
    for path in walk(root):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(
                f"{str(path)!r} is a pipe, socket or device, on which DVC would hang; move it "
                "elsewhere"
            )


def check_names(root: Path) -> None:
    """Raise ValueError naming all files and folders whose names are not UTF-8."""
    invalid = [escaped(path) for path in walk(root) if not is_utf8(path.name)]
    if invalid:
        raise ValueError(
            f"names that are not UTF-8, which DVC cannot watch: {join_names(invalid)}; rename them"
        )


def check_not_nested_project(root: Path) -> None:
    """Raise ValueError if a file or folder is, or is in, a DVC project nested in this one."""
    project = Path.cwd()
    for folder in (root.absolute(), *root.absolute().parents):
        if project in folder.parents and (folder / ".dvc").exists():
            raise ValueError(
                f"{str(folder.relative_to(project))!r} is a separate DVC project, which this one "
                "cannot read; remove its .dvc, or choose another folder"
            )


def walk(root: Path) -> Iterator[Path]:
    """Yield all files and folders inside a folder, without following links; nothing for a file."""
    if root.is_file():
        return
    for parent, folders, files in os.walk(root, onerror=raise_error):
        yield from (Path(parent, name) for name in (*folders, *files))


def is_utf8(name: str) -> bool:
    """Return True if a file name, as the file system gives it, is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(path: Path) -> str:
    r"""Return a path with each byte that is not UTF-8 written as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_copy(corpus: CorpusParams, copy: Path, workspace: Path) -> None:
    """Raise ValueError if `copy` lacks files of the workspace that it was made from.

    `dvc exp run --temp` and `--queue` run in a copy of what git and DVC keep. Files added to git
    after an experiment was queued do not count as missing.
    """
    if corpus.source == "mixture":
        for part in (corpus.mixture or {}).values():
            check_copy(part, copy, workspace)
    if corpus.source == "files":
        check_folder_copy(corpus, copy / corpus.path, workspace / corpus.path)


def check_folder_copy(corpus: CorpusParams, copy: Path, original: Path) -> None:
    """Raise ValueError if a folder lacks files of the original that git does not have."""
    if not original.exists():
        return
    copied: set[str] = set()
    if copy.exists():
        copied = {file.name for file in text_files(copy, corpus.glob, Counter())}
    originals = {file.name for file in text_files(original, corpus.glob, Counter())}
    missing = sorted(originals - copied - names_in_git(original))
    if missing:
        raise ValueError(
            f"this experiment runs in a copy without {len(missing):,} of your texts, which neither "
            f"git nor DVC keeps: {join_names(missing)}; `git add {corpus.path}`, or `dvc add "
            f"{corpus.path}` as docs/your-own-text.md shows, or leave out --temp and --queue"
        )


def names_in_git(folder: Path) -> set[str]:
    """Return the names in a folder that git tracks; none outside of a repository."""
    command = ["git", "ls-files", "-z"]
    cwd = folder if folder.is_dir() else folder.parent
    git = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    return {os.fsdecode(name) for name in git.stdout.split(b"\0") if name}


def join_names(names: list[str]) -> str:
    """Return up to MAX_LISTED names in one string, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
