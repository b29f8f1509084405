"""A snapshot of a stage's inputs, taken when it starts and compared when it ends.

DVC hashes a stage's dependencies only after the stage has ended (treeverse/dvc#11058). A param or a
file edited while the stage runs would be recorded with an output that it did not produce, and the
run cache would later restore that output. A stage whose inputs changed fails instead.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.runtime.yaml_files import DVC_FILE, PARAMS_FILE, read_params

CODE = ("nanogpt", "stages", "filters")  # whatever lies there
SHOWN = 8  # changes listed one by one; the rest are counted


@dataclass(frozen=True)
class Inputs:
    """A stage's params by dotted key, and its files by path, each with its hash or its stat."""

    params: dict[str, Any]
    files: dict[str, str]

    def changes(self, now: "Inputs") -> list[str]:
        """Describe each difference to `now`: params sorted by key, then files sorted by path."""
        keys = sorted(self.params.keys() | now.params.keys())
        return [
            f"{PARAMS_FILE}: {key} was {self.params.get(key)!r}, now {now.params.get(key)!r}"
            for key in keys
            if self.params.get(key) != now.params.get(key)
        ] + [
            f"{path} {change_of(self.files.get(path), now.files.get(path))}"
            for path in sorted(self.files.keys() | now.files.keys())
            if self.files.get(path) != now.files.get(path)
        ]


def change_of(before: str | None, now: str | None) -> str:
    """Describe how a file changed, given its states."""
    if before is None:
        return "was added"
    return "was removed" if now is None else "was edited"


def inputs_of(stage: str) -> Inputs | None:
    """Return the current inputs of a stage as dvc.yaml declares them; None if it has no such stage.

    Code is identified by its content, data, which can be large, by size and modification time.
    """
    if not DVC_FILE.exists():
        return None
    declared = read_params(DVC_FILE)["stages"].get(stage)
    if declared is None:
        return None
    content = read_params()
    flat = dict(leaves(content))
    keys = [key for key in flat for name in declared.get("params", []) if is_within(key, name)]
    files: dict[str, str] = {}
    for dependency in declared.get("deps", []):
        files |= file_states(Path(interpolate(dependency, flat)))
    return Inputs(params={key: flat[key] for key in keys}, files=files)


def check_unchanged(stage: str, start: Inputs) -> None:
    """Raise ValueError if an input of a stage is no longer what it was at its start."""
    now = inputs_of(stage)
    changes = start.changes(now) if now else [f"{DVC_FILE} has no stage {stage} any more"]
    if not changes:
        return
    if len(changes) > SHOWN:
        changes = [*changes[:SHOWN], f"and {len(changes) - SHOWN} more"]
    kept = "; the finished run is kept until another starts" if stage == "train" else ""
    raise ValueError(
        "inputs of this stage changed while it was running, so its output was not recorded:\n"
        + "".join(f"  {change}\n" for change in changes)
        + f"Rerun it to use the current inputs, or revert the change and rerun it{kept}"
    )


def code_md5(stage: str) -> dict[str, str]:
    """Return the MD5 of each code file that a stage depends on, by path."""
    inputs = inputs_of(stage)
    return {path: md5 for path, md5 in inputs.files.items() if is_code(path)} if inputs else {}


def is_code(path: str | Path) -> bool:
    """Return whether a file is code rather than data."""
    return Path(path).suffix == ".py" or Path(path).parts[0] in CODE


def is_within(key: str, name: str) -> bool:
    """Return whether a dotted key of the params is `name` or below it."""
    return key == name or key.startswith(f"{name}.")


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf; an empty mapping is a leaf."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content


def interpolate(dependency: str, params: dict[str, Any]) -> str:
    """Substitute the param for each `${key}` in a dependency, as DVC does."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(params.get(match[1].strip())), dependency)


def file_states(path: Path) -> dict[str, str]:
    """Return the state of a file, or of each file in a folder, by path."""
    if not path.is_dir():
        return {path.as_posix(): file_state(path)} if path.exists() else {}
    return {file.as_posix(): file_state(file) for file in folder_files(path)}


def folder_files(folder: Path) -> list[Path]:
    """Return the files in a folder, sorted, without hidden ones and bytecode, as DVC sees code.

    No stage reads hidden files.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and "__pycache__" not in file.parts
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def file_state(file: Path) -> str:
    """Return the MD5 of a code file, and size and modification time of any other."""
    if is_code(file):
        return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    stat = file.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
