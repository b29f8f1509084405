"""Verify that every file is still exactly as it was written: `python -m stages verify`.

From corpus to model, every file is compared with the sha256 in its folder's manifest, every
manifest with what the next folder says it was made from, and the params and code it names with
dvc.lock. Outputs that do not exist yet are not errors.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt.files import file_sha256
from stages.artifacts.integrity import (
    ARTIFACTS,
    Artifact,
    described,
    file_problems,
    size_line,
    sources,
    tokenizer_problems,
)
from stages.formats.dvc_lock import (
    chain_problems,
    code_problems,
    locked_stages,
    params_problems,
    read_accepted,
)
from stages.params.sections import SECTIONS
from stages.runtime.settings import Settings


def verify(root: Path) -> list[str]:
    """Print a line per folder and return all problems. Raises ValueError if there is none."""
    present = [artifact for artifact in ARTIFACTS if (root / artifact.folder).is_dir()]
    if not present:
        folders = ", ".join(str(artifact.folder) for artifact in ARTIFACTS)
        raise ValueError(
            f"there is nothing to verify: no {folders}; run `dvc repro` to create them"
        )
    locked = locked_stages(root)
    all_problems = []
    for artifact in ARTIFACTS:
        if artifact not in present:
            print(f"{artifact.name:8}not built yet")
            continue
        problems = artifact_problems(artifact, root, locked.get(artifact.stage, {}))
        plural = "" if len(problems) == 1 else "s"
        state = f"{len(problems)} problem{plural}" if problems else "ok"
        print(f"{artifact.name:8}{size_line(root / artifact.folder)}: {state}", flush=True)
        all_problems += problems
    return all_problems + chain_problems(locked)


def artifact_problems(artifact: Artifact, root: Path, locked: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in an existing folder."""
    folder = root / artifact.folder
    file = folder / artifact.manifest
    if not file.is_file():
        return [f"{file} is missing; {artifact.remedy}"]
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        artifact = replace(artifact, imported="imported" in manifest)
        changed = file_problems(artifact, folder, described(artifact, manifest))
        return [
            *changed,
            *tokenizer_problems(artifact, folder, manifest),
            *link_problems(artifact, root, manifest),
            *lock_problems(artifact, folder, manifest, locked),
            *([] if changed else model_problems(artifact, folder)),
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{file} is not as it was written ({error!r}); {artifact.remedy}"]


def link_problems(artifact: Artifact, root: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the existing folders that this one was not made from, as problems."""
    recorded = sources(artifact, manifest)
    problems = []
    for source in ARTIFACTS:
        sha256 = recorded.get(source.name)  # null if imported
        file = root / source.folder / source.manifest
        if sha256 and file.is_file() and file_sha256(file) != sha256:
            problems.append(
                f"{root / artifact.folder} was not built from the current {root / source.folder}; "
                f"run `dvc repro {artifact.stage}` to bring them back in sync"
            )
    return problems


def lock_problems(
    artifact: Artifact, folder: Path, manifest: dict[str, Any], locked: Mapping[str, Any]
) -> list[str]:
    """Return the differences from dvc.lock; none for an imported folder."""
    if artifact.imported:
        return []
    is_model = artifact.name == "model"
    problems = params_problems(locked, manifest["params"] if is_model else manifest, SECTIONS)
    if is_model:
        problems += code_problems(
            locked, manifest["code"].get("files_md5", {}), read_accepted(folder.parents[1])
        )
    return [f"{folder} was {problem}; {artifact.remedy}" for problem in problems]


def model_problems(artifact: Artifact, folder: Path) -> list[str]:
    """Return the error of a model that cannot be loaded."""
    if artifact.name != "model":
        return []
    import torch

    from nanogpt.model.files import load_model

    try:
        load_model(folder, torch.device("cpu"))
    except ValueError as error:
        return [f"{error}; {artifact.remedy}"]
    return []


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages verify`."""
    if problems := verify(Path()):
        raise ValueError("\n".join(problems))
