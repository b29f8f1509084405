"""What a stage depends on, noted at its start and compared at its end.

DVC notes what a stage depended on once the stage has ended (treeverse/dvc#11058). A param or a file
that is edited while the stage runs would be recorded with a result it had no part in, and the run
cache would bring that result back later. So a stage fails instead of ending like that.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.runtime.yaml_files import PARAMS_FILE, read_params

DVC_FILE = Path("dvc.yaml")
CODE = ("nanogpt", "stages", "filters")  # all of what lies there
SHOWN = 8  # changes named one by one


@dataclass(frozen=True)
class Inputs:
    """The params of a stage by key, and its files by path, each with what tells it from others."""

    params: dict[str, Any]
    files: dict[str, str]

    def changes(self, now: "Inputs") -> list[str]:
        """Say what is different now, in the order of the keys and paths."""
        keys = sorted(self.params.keys() | now.params.keys())
        return [
            f"{PARAMS_FILE}: {key} was {self.params.get(key)!r}, now {now.params.get(key)!r}"
            for key in keys
            if self.params.get(key) != now.params.get(key)
        ] + [
            f"{path} {how_changed(self.files.get(path), now.files.get(path))}"
            for path in sorted(self.files.keys() | now.files.keys())
            if self.files.get(path) != now.files.get(path)
        ]


def how_changed(before: str | None, now: str | None) -> str:
    """Name the difference between what was and what is."""
    if before is None:
        return "was added"
    return "was removed" if now is None else "was edited"


def inputs_of(stage: str) -> Inputs | None:
    """Read what dvc.yaml declares of a stage; None for what is none of its stages.

    Code is compared by its content, data by size and time of change: it can be large.
    """
    if not DVC_FILE.exists():
        return None
    declared = read_params(DVC_FILE)["stages"].get(stage)
    if declared is None:
        return None
    content = read_params()
    flat = dict(leaves(content))
    keys = [key for key in flat for name in declared["params"] if is_part(key, name)]
    files: dict[str, str] = {}
    for dependency in declared["deps"]:
        files |= described(Path(interpolated(dependency, flat)))
    return Inputs(params={key: flat[key] for key in keys}, files=files)


def check_unchanged(stage: str, start: Inputs) -> None:
    """Raise ValueError when what a stage depends on is no longer what it was at its start."""
    now = inputs_of(stage)
    changes = start.changes(now) if now else [f"{DVC_FILE} has no stage {stage} any more"]
    if not changes:
        return
    if len(changes) > SHOWN:
        changes = [*changes[:SHOWN], f"and {len(changes) - SHOWN} more"]
    kept = "; the finished training is kept until another begins" if stage == "train" else ""
    raise ValueError(
        "what this stage depends on was changed while it ran, so its result is not recorded:\n"
        + "".join(f"  {change}\n" for change in changes)
        + "Run it again for a result of what is there now, or undo the change first and run it "
        f"again{kept}"
    )


def code_md5(stage: str) -> dict[str, str]:
    """Return the MD5 of each file of code a stage depends on."""
    inputs = inputs_of(stage)
    return {path: md5 for path, md5 in inputs.files.items() if is_code(path)} if inputs else {}


def is_code(path: str | Path) -> bool:
    """Return whether a file is code, and no data."""
    return Path(path).suffix == ".py" or Path(path).parts[0] in CODE


def is_part(key: str, name: str) -> bool:
    """Whether a key of the params is `name` or lies below it."""
    return key == name or key.startswith(f"{name}.")


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings by their dotted keys; an empty mapping is a value."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content


def interpolated(dependency: str, params: dict[str, Any]) -> str:
    """Return a dependency with each ${key} replaced by the param of that name, as DVC does."""
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(params.get(found[1].strip())), dependency)


def described(path: Path) -> dict[str, str]:
    """Describe a file, or all files in a folder, but for hidden ones, which no stage reads."""
    if not path.is_dir():
        return {path.as_posix(): state_of(path)} if path.exists() else {}
    files = (file for file in path.rglob("*") if file.is_file())
    return {
        file.as_posix(): state_of(file)
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
        and "__pycache__" not in file.parts
    }


def state_of(file: Path) -> str:
    """Return the MD5 of code, and of any other file its size and when it was changed."""
    if is_code(file):
        return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"
