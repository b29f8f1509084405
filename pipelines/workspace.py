"""A workspace: a copy of the project in which one run works, and the experiment it becomes.

It is a git clone with the files as they are in the project at that moment, edits and new files
included, and it shares DVC's cache, so that stages are restored from there rather than repeated.
Nothing that is edited in the project afterwards changes the run. A finished run is saved as an
experiment, which `dvc exp show` in the project lists and `dvc exp apply` brings in.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from nanogpt.files import atomic_rmtree
from pipelines.parameters import write_params

FOLDER = Path("runs/workspaces")
SAVED = ".saved"  # a file per run whose experiment has been saved
RUN_ID_CHARACTERS = 8  # of a run's id, in the name of its workspace
TITLE_CHARACTERS = 80  # of a run's title, there too
SHARED = (".cache/gpt2.tiktoken",)  # other caches belong to one run: a stage cleans up its own
IDENTITY = {"user.name": "nanogpt", "user.email": "nanogpt@localhost"}  # where git has none


@dataclass(frozen=True)
class Workspace:
    """A run's copy of the project."""

    project: Path
    folder: Path


def workspace_of(project: Path, title: str, run_id: str) -> Workspace:
    """Return the workspace of a run: the one it had before it was interrupted, or a new one."""
    own = own_part(run_id)
    existing = list((project / FOLDER).glob(f"*-{own}"))
    return Workspace(
        project, existing[0] if existing else project / FOLDER / f"{slug(title)}-{own}"
    )


def own_part(run_id: str) -> str:
    """Return the end of a run's id; the ids of scheduled runs begin with the time, all alike."""
    return run_id.replace("-", "")[-RUN_ID_CHARACTERS:]


def draft_of(workspace: Workspace) -> Path:
    """Return the folder in which a workspace is made, which `workspace_of` does not find."""
    return workspace.folder.with_name(f".{workspace.folder.name}.part")


def lock_of(workspace: Workspace) -> Path:
    """Return the file that the process of a run locks while it works."""
    return workspace.folder.with_name(f".{workspace.folder.name}.lock")


def saved_file(project: Path, run_id: str) -> Path:
    """Return the file that exists once the experiment of a run has been saved."""
    return project / FOLDER / SAVED / run_id


def create(
    workspace: Workspace, preset: str | None, overrides: Mapping[str, Any], weights: str | None
) -> None:
    """Make a workspace with the params of a run; one that is already there is kept as it is.

    `weights` is the folder with the initial weights, if there is one. Raises ValueError if the
    project has no commit.
    """
    if workspace.folder.exists():
        return
    project, draft = workspace.project, draft_of(workspace)
    check_repository(project)
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    git(project, "clone", "--quiet", "--shared", "--no-checkout", str(project), str(draft))
    git(draft, "reset", "--quiet", "--mixed", "HEAD")  # the index of the commit, no files yet
    copy_files(project, draft)
    for name in SHARED:
        if (project / name).exists():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).symlink_to(project / name)
    if weights and (project / weights).is_dir() and not (draft / weights).exists():
        shutil.copytree(project / weights, draft / weights)
    for key, value in identity_of(project).items():
        git(draft, "config", key, value)
    share_cache(project, draft)
    write_params(preset, overrides, draft)
    draft.rename(workspace.folder)


@contextmanager
def inside(workspace: Workspace) -> Iterator[None]:
    """Work in a workspace, with MLflow's store and the training state of the project."""
    os.environ["NANOGPT_PROJECT"] = str(workspace.project)
    try:
        with chdir(workspace.folder):
            yield
    finally:
        del os.environ["NANOGPT_PROJECT"]


def check_repository(project: Path) -> None:
    """Raise ValueError unless a project has a commit, which an experiment needs to build on."""
    done = subprocess.run(
        ["git", "-C", project, "rev-parse", "--verify", "--quiet", "HEAD"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"{project} has no git commit, and a run becomes an experiment that builds on one: "
            "run `git init`, `git add -A` and `git commit -m start`"
        )


def copy_files(project: Path, folder: Path) -> None:
    """Copy the files of a project that git does not ignore, as they are now.

    Compiled code comes along: it is valid as long as the time of its source is the same.
    """
    packages: set[Path] = set()
    listed = git(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, target = project / name, folder / name
        if not (source.is_file() or source.is_symlink()):
            continue  # deleted, or a repository of its own
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        if source.suffix == ".py":
            packages.add(source.parent)
    for compiled in (package / "__pycache__" for package in packages):
        if compiled.is_dir():
            shutil.copytree(compiled, folder / compiled.relative_to(project), dirs_exist_ok=True)


def share_cache(project: Path, folder: Path) -> None:
    """Make the workspace use the project's DVC cache, and check out what is there.

    The outputs of stages may be missing; they are made again.
    """
    local = project / ".dvc" / "config.local"
    if local.exists():
        shutil.copy2(local, folder / ".dvc" / "config.local")
    with Repo(str(project)) as repo:
        cache = repo.cache.local_cache_dir
        urls = {name: remote.get("url", "") for name, remote in repo.config["remote"].items()}
    with Repo(str(folder)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {})["dir"] = cache
        for name, url in urls.items():
            if Path(url).is_absolute():  # a path in the configuration is relative to it
                config.setdefault("remote", {}).setdefault(name, {})["url"] = url
    tracked = [str(file) for file in folder.rglob("*.dvc") if file.is_file()]
    with Repo(str(folder)) as repo:
        if tracked:
            repo.checkout(targets=tracked)
        repo.checkout(allow_missing=True)


def identity_of(project: Path) -> dict[str, str]:
    """Return the name and e-mail address that git uses for commits in a project."""
    found = {}
    for key, default in IDENTITY.items():
        done = subprocess.run(
            ["git", "-C", project, "config", key], capture_output=True, text=True, check=False
        )
        found[key] = done.stdout.strip() or default
    return found


def check_experiment_name(project: Path, name: str) -> None:
    """Raise ValueError if an experiment of this name exists or the name is not allowed."""
    allowed = ["git", "check-ref-format", f"refs/exps/{name}"]
    if "/" in name or name.startswith("-") or subprocess.run(allowed, check=False).returncode:
        raise ValueError(
            f"experiment: {name!r} is not a name that git allows; use letters, digits and hyphens"
        )
    if refs_of(project, name):
        raise ValueError(
            f"experiment: {name!r} exists; choose another name, or remove it with "
            f"`dvc exp remove {name}`"
        )


def save(workspace: Workspace, name: str, stages: Sequence[str]) -> str:
    """Save what these stages made as an experiment of the project; return its name.

    If another run has taken the name meanwhile, it is that of the workspace. Raises ValueError.
    """
    if refs_of(workspace.project, name):
        name = workspace.folder.name
    try:
        with chdir(workspace.folder), Repo() as repo:
            repo.experiments.save(targets=list(stages), name=name, force=True)
    except DvcException as error:
        raise ValueError(f"the experiment could not be saved: {error}") from error
    pairs = [f"+{reference}:{reference}" for reference in refs_of(workspace.folder, name)]
    git(workspace.folder, "push", "--quiet", str(workspace.project), *pairs)
    return name


def remove(workspace: Workspace) -> None:
    """Remove a workspace."""
    atomic_rmtree(workspace.folder)


def refs_of(repository: Path, name: str) -> list[str]:
    """Return the git references of the experiments of a name."""
    listed = git(repository, "for-each-ref", "--format=%(refname)", "refs/exps")
    return [line for line in listed.splitlines() if line.rpartition("/")[2] == name]


def slug(title: str) -> str:
    """Return the name of an experiment for a run with this title."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", title)
    return name.strip("-.")[:TITLE_CHARACTERS].strip("-.") or "run"


def git(repository: Path, *arguments: str) -> str:
    """Run git in a repository and return its output. Raises ValueError with git's message."""
    done = subprocess.run(
        ["git", "-C", repository, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
