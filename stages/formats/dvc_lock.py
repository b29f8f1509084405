"""Comparison of dvc.lock with what the outputs of the stages record about themselves."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.lib.params import Section
from stages.runtime.inputs import leaves
from stages.runtime.yaml_files import PARAMS_FILE, read_params

LOCK_FILE = Path("dvc.lock")
CACHE = Path(".dvc/cache/files/md5")  # where DVC keeps outputs unless `cache.dir` is set
ACCEPTED = Path("accepted.json")  # code that `make accept` recorded, and in the place of which
PINNED = ".huggingface.revision"  # may be a branch in the params, but a commit in the manifest


def run_dvc(*arguments: str) -> str:
    """Run a DVC command and return its output. Raises ValueError with DVC's words if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise ValueError(f"`dvc {' '.join(arguments)}` failed: {lines[-1]}")
    return done.stdout


def locked_stages(root: Path) -> dict[str, Any]:
    """Return the stages in dvc.lock by name; empty if there is no dvc.lock."""
    file = root / LOCK_FILE
    stages: dict[str, Any] = read_params(file)["stages"] if file.exists() else {}
    return stages


def params_problems(
    locked: Mapping[str, Any], made_with: Mapping[str, Any], known: Mapping[str, type[Section]]
) -> list[str]:
    """Return one line per param that dvc.lock records differently from a stage's output.

    `made_with` has the sections of the params that the output itself records, `known` the
    section classes of this version, both by name.
    """
    recorded = locked.get("params", {}).get(PARAMS_FILE.name, {})
    problems = []
    for section in sorted(recorded.keys() & made_with.keys()):
        used = dict(leaves(made_with[section], section))
        for key, value in leaves(normalize(known.get(section), recorded[section]), section):
            if not key.endswith(PINNED) and used.get(key) != value:
                problems.append(
                    f"built with {key} {used.get(key)!r}, where {LOCK_FILE} records {value!r}"
                )
    return problems


def normalize(section: type[Section] | None, content: Any) -> Any:
    """Return a section as manifests record it, or unchanged if this version has other keys."""
    try:
        return section.model_validate(content).model_dump(mode="json") if section else content
    except ValidationError:
        return content


def read_accepted(root: Path) -> list[dict[str, str]]:
    """Return the versions of code that were accepted: path, made_by and accepted (MD5) of each."""
    file = root / ACCEPTED
    entries: list[dict[str, str]] = json.loads(file.read_text()) if file.exists() else []
    return entries


def code_problems(
    locked: Mapping[str, Any],
    files_md5: Mapping[str, str],
    accepted: Sequence[Mapping[str, str]] = (),
) -> list[str]:
    """Return one line per code dependency that dvc.lock records in another version than ran.

    A version that was accepted in place of one that ran, or of an accepted one, is as good.
    """
    recorded = {dep["path"]: dep.get("md5") for dep in locked.get("deps", [])}
    ran = {path: md5_of(path, files_md5) for path in recorded}
    return [
        f"built by a different version of {path} than {LOCK_FILE} records"
        for path in sorted(recorded)
        if ran[path] is not None and recorded[path] not in same_as(path, ran[path], accepted)
    ]


def same_as(path: str, md5: str | None, accepted: Sequence[Mapping[str, str]]) -> set[str | None]:
    """Return the versions of some code that make the same bytes as one: itself and the accepted."""
    same = {md5}
    for entry in accepted:  # in the order they were accepted
        if entry["path"] == path and entry["made_by"] in same:
            same.add(entry["accepted"])
    return same


def md5_of(path: str, files_md5: Mapping[str, str]) -> str | None:
    """Return DVC's MD5 of a file or folder, given the MD5s of all files; None for any other path.

    That of a folder is the MD5 of the list of its files, as JSON.
    """
    if path in files_md5:
        return files_md5[path]
    inside = {file: md5 for file, md5 in files_md5.items() if file.startswith(f"{path}/")}
    if not inside:
        return None
    return folder_md5({file.removeprefix(f"{path}/"): md5 for file, md5 in inside.items()})


def folder_md5(files: Mapping[str, str]) -> str:
    """Return the MD5 that DVC gives a folder, by its files' relative paths and MD5."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    content = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}.dir"


def chain_problems(stages: Mapping[str, Any]) -> list[str]:
    """Return one line per stage whose input in dvc.lock differs from an earlier stage's output."""
    outputs = {
        out["path"]: (name, out.get("md5"))
        for name, stage in stages.items()
        for out in stage.get("outs", [])
    }
    return [
        f"{LOCK_FILE}: {name} ran with a different {dep['path']} than "
        f"{outputs[dep['path']][0]} produced; run `dvc repro {name}` to bring them back in sync"
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep["path"] in outputs and outputs[dep["path"]][1] != dep.get("md5")
    ]


def cached_file(root: Path, folder: Path, name: str) -> Path | None:
    """Return DVC's own copy of a file in an output folder, as dvc.lock records it, if there is one.

    For a folder, DVC's cache has the list of its files, as JSON.
    """
    outs = [out for stage in locked_stages(root).values() for out in stage.get("outs", [])]
    for md5 in (out.get("md5", "") for out in outs if out["path"] == folder.as_posix()):
        listing = cache_path(root / CACHE, md5)
        entries = json.loads(listing.read_text()) if listing.is_file() else []
        for file in (
            cache_path(root / CACHE, one["md5"]) for one in entries if one["relpath"] == name
        ):
            if file.is_file():
                return file
    return None


def cache_path(cache: Path, md5: str) -> Path:
    """Return where a cache of DVC keeps what has this MD5."""
    return cache / md5[:2] / md5[2:]
