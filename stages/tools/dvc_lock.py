"""What dvc.lock records of the stages, compared with what their outputs record themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.lib.params import PARAMS_FILE, read_params
from stages.runtime.inputs import leaves
from stages.tools.check import SECTIONS

LOCK_FILE = Path("dvc.lock")
PINNED = ".huggingface.revision"  # a branch in the params, its commit in the manifest


def locked_stages(root: Path) -> dict[str, Any]:
    """Return the stages in dvc.lock by name; none where nothing was recorded yet."""
    file = root / LOCK_FILE
    stages: dict[str, Any] = read_params(file)["stages"] if file.exists() else {}
    return stages


def params_problems(locked: Mapping[str, Any], made_with: Mapping[str, Any]) -> list[str]:
    """Say which params dvc.lock records for a stage that its output was not made with.

    made_with has the sections of the params that the output itself records, by name.
    """
    recorded = locked.get("params", {}).get(PARAMS_FILE.name, {})
    problems = []
    for section in sorted(recorded.keys() & made_with.keys()):
        there = dict(leaves(made_with[section], section))
        for key, value in leaves(normal(section, recorded[section]), section):
            if not key.endswith(PINNED) and there.get(key) != value:
                problems.append(
                    f"made with {key} {there.get(key)!r}, where {LOCK_FILE} records {value!r}"
                )
    return problems


def normal(section: str, content: Any) -> Any:
    """Return a section as manifests have it, or as it is where this version has other keys."""
    try:
        return SECTIONS[section].model_validate(content).model_dump(mode="json")
    except (KeyError, ValidationError):
        return content


def code_problems(locked: Mapping[str, Any], files_md5: Mapping[str, str]) -> list[str]:
    """Say which modules dvc.lock records in another version than the one that ran."""
    recorded = {dep["path"]: dep.get("md5") for dep in locked.get("deps", [])}
    return [
        f"made by {path} in another version than {LOCK_FILE} records"
        for path, md5 in sorted(files_md5.items())
        if path in recorded and recorded[path] != md5
    ]


def chain_problems(stages: Mapping[str, Any]) -> list[str]:
    """Say which stages dvc.lock records with other input than the stage before put out."""
    made = {
        out["path"]: (name, out.get("md5"))
        for name, stage in stages.items()
        for out in stage.get("outs", [])
    }
    return [
        f"{LOCK_FILE}: {name} ran with another {dep['path']} than {made[dep['path']][0]} made; "
        f"`dvc repro {name}` makes them agree"
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep["path"] in made and made[dep["path"]][1] != dep.get("md5")
    ]
