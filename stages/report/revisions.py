"""Where the files of a run are: in the working tree, or in DVC's cache for any other revision.

A revision is a commit, a branch, a tag or the name of an experiment. Its dvc.lock is in git; what
the stages wrote is in DVC's cache, by the hashes in dvc.lock. Nothing is checked out.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.formats.dvc_lock import (
    LOCK_FILE,
    cache_path,
    chain_problems,
    locked_stages,
    run_dvc,
)
from stages.runtime.yaml_files import parse_params

WORKSPACE = "workspace"  # DVC's name for the working tree
MEASURED = ("shard", "weights", "train", "evaluate", "sample")  # must belong together
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")

Kind = Literal["workspace", "commit", "experiment"]


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A state of the project: what its dvc.lock records, and where its files are."""

    name: str
    kind: Kind
    stages: Mapping[str, Any]  # in dvc.lock, by name
    cache: Path | None = None  # None: in the working tree

    def text(self, file: Path) -> str:
        """Return the text of a file that a stage wrote. Raises ValueError if it is not there."""
        if self.cache is None:
            if not file.is_file():
                raise ValueError(f"{file} is missing; run `dvc repro` to create it")
            return file.read_text(encoding="utf-8")
        return self.cached(file, self.cache).read_text(encoding="utf-8")

    def cached(self, file: Path, cache: Path) -> Path:
        """Return DVC's copy of a file."""
        for out in (out for stage in self.stages.values() for out in stage.get("outs", [])):
            md5, relative = out.get("md5", ""), file.as_posix().removeprefix(f"{out['path']}/")
            if relative == out["path"]:
                return self.existing(cache_path(cache, md5), file)
            if relative != file.as_posix():
                listing = self.existing(cache_path(cache, md5), file)
                entries = {e["relpath"]: e["md5"] for e in json.loads(listing.read_text())}
                if relative in entries:
                    return self.existing(cache_path(cache, entries[relative]), file)
        raise ValueError(
            f"{self.name} has no {file} in its {LOCK_FILE}; run `dvc repro` there and commit "
            f"{LOCK_FILE}"
        )

    def existing(self, copy: Path, file: Path) -> Path:
        """Return a file of DVC's cache. Raises ValueError if the cache does not have it."""
        if not copy.is_file():
            raise ValueError(
                f"{file} of {self.name} is not in DVC's cache; {self.way_back}, then `dvc pull` if "
                "it was pushed, or `dvc repro`"
            )
        return copy

    @property
    def way_back(self) -> str:
        """Return the command that brings the params and the dvc.lock of a revision back."""
        if self.kind == "experiment":
            return f"`dvc exp apply {self.name}`"
        return f"`git restore --source={self.name} params.yaml {LOCK_FILE}`"


def open_revision(name: str) -> Revision:
    """Return a revision. Raises ValueError if there is none, or if it holds no finished run."""
    if name == WORKSPACE:
        stages = locked_stages(Path())
        revision = Revision(name=name, kind="workspace", stages=stages)
        missing = f"{LOCK_FILE} is missing; run `dvc repro` to create it"
    else:
        commit, kind = commit_of(name)
        text = git("show", f"{commit}:./{LOCK_FILE}") or ""
        stages = parse_params(text, LOCK_FILE)["stages"] if text else {}
        cache = Path(run_dvc("cache", "dir").strip()) / "files/md5"
        revision = Revision(name=name, kind=kind, stages=stages, cache=cache)
        missing = (
            f"{name} has no {LOCK_FILE}, which a run writes and git keeps once you commit it: "
            "no run can be shown"
        )
    if not stages:
        raise ValueError(missing)
    problems = chain_problems({name: stages[name] for name in MEASURED if name in stages})
    if problems:
        raise ValueError(f"{name}: {problems[0]}")
    return revision


def commit_of(name: str) -> tuple[str, Kind]:
    """Return the commit of a revision and what the name stands for.

    Raises ValueError if neither git nor DVC knows it, or if several experiments have the name.
    """
    target = f"{name}^{{commit}}"
    if commit := git("rev-parse", "--verify", "--quiet", "--end-of-options", target):
        return commit.strip(), "commit"
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    references = (line.split(" ", 1) for line in listed.splitlines())
    named = [
        commit
        for commit, reference in references
        if (found := EXPERIMENT.fullmatch(reference)) and found[1] == name
    ]
    if not named:
        raise ValueError(
            f"{name!r} is no commit, branch, tag or experiment; `git log` and `dvc exp show` list "
            "them"
        )
    if len(named) > 1:
        commits = ", ".join(commit[:12] for commit in named)
        raise ValueError(f"{len(named)} experiments are named {name}; specify one of {commits}")
    return named[0], "experiment"


def git(*arguments: str) -> str | None:
    """Return git's output, None if it fails. Raises ValueError if there is no git."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], capture_output=True, check=False
        )
    except OSError as error:
        raise ValueError(f"git cannot be run ({error.strerror})") from None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
