"""How a model was trained, in words, by its lineage.json: params, code, sessions, hardware."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = 8  # files listed one by one; the rest are counted


def training_lines(about: Mapping[str, Any], root: Path) -> list[str]:
    """Return how a model was trained, one fact per line; `root` is the project folder here."""
    sessions = about.get("sessions", [])
    code = [session["code"] for session in sessions] or [about["code"]]
    hardware = [session["hardware"] for session in sessions] or [about["hardware"]]
    return [
        f"params fingerprint {about['fingerprint']}",
        *dict.fromkeys(line for one in code for line in code_lines(one, root)),
        *session_lines(sessions),
        *dict.fromkeys(hardware_line(one) for one in hardware),
        ", ".join(f"{name} {version}" for name, version in about["libraries"].items()),
    ]


def code_lines(code: Mapping[str, Any], root: Path) -> list[str]:
    """Return the commit of a training session, and how many files of it are still the same."""
    return [commit_line(code, root), *files_lines(code.get("files_md5", {}), root)]


def commit_line(code: Mapping[str, Any], root: Path) -> str:
    """Return the commit of a training session, and the files that differed from it."""
    commit = code["git_commit"]
    if commit is None:
        return f"commit unknown: {code['git_problem']}"
    where = "" if git_has(commit, root) else ", not in this repository"
    changed = code["git_changed"]
    if changed is None:
        return f"commit {commit}{where}; changed files unknown: {code['git_problem']}"
    return f"commit {commit}{where}; changed: {some_of(changed) if changed else 'nothing'}"


def git_has(commit: str, root: Path) -> bool:
    """Return whether the repository of the project has a commit."""
    command = ["git", "-C", str(root.absolute()), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # there is no git
        return False


def files_lines(files_md5: Mapping[str, str], root: Path) -> list[str]:
    """Return how many files of code a session ran, and which of them differ now."""
    if not files_md5:
        return []
    changed = [path for path, md5 in files_md5.items() if md5_of(root / path) != md5]
    now = f"{some_of(changed)} changed since" if changed else "as they are now"
    return [f"{len(files_md5)} files of code, {now}"]


def md5_of(file: Path) -> str | None:
    """Return the MD5 of a file of code, None if it does not exist."""
    if not file.is_file():
        return None
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def some_of(names: Sequence[str]) -> str:
    """Return the first names and the number of the rest."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def session_lines(sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return after which steps the sessions of a training run began."""
    if len(sessions) < 2:
        return ["1 session"] if sessions else []
    steps = ", ".join(f"{session['after_step']:,}" for session in sessions)
    return [f"{len(sessions)} sessions, after steps {steps}"]


def hardware_line(hardware: Mapping[str, Any]) -> str:
    """Return the hardware of a training session."""
    return (
        f"{hardware['device']}, {hardware['number_format']}, processes: {hardware['processes']}, "
        f"threads: {hardware['threads']}, workers: {hardware.get('workers', 1)}, "
        f"{hardware['machine']}, Python {hardware['python']}"
    )
