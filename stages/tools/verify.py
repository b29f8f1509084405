"""Verify that every file is still exactly as it was written: `python -m stages verify`.

From corpus to model, every file is compared with the sha256 in its folder's manifest, every
manifest with what the next folder says it was made from, and the params and code it names with
dvc.lock. Outputs that do not exist yet are not errors.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt.files import file_sha256
from stages.artifacts.clean import CLEAN
from stages.artifacts.corpus import CORPUS
from stages.artifacts.model import LINEAGE, MODEL
from stages.artifacts.shards import SHARDS
from stages.artifacts.tokens import TOKENS
from stages.formats.dvc_lock import (
    chain_problems,
    code_problems,
    locked_stages,
    params_problems,
    read_accepted,
)
from stages.params.sections import SECTIONS
from stages.runtime.settings import Settings
from stages.tokenizers.tokenizer import files_fingerprint


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An output folder: the file in it that describes the others, and the stage that writes it."""

    name: str
    folder: Path
    manifest: str
    stage: str
    imported: bool = False  # by stages.tools.token_files

    @property
    def remedy(self) -> str:
        """Return how to rebuild the folder."""
        command = "python -m stages token-files" if self.imported else f"dvc repro -f {self.stage}"
        return f"run `{command}` to rebuild it"


ARTIFACTS = (
    Artifact(name="corpus", folder=CORPUS, manifest="manifest.json", stage="download"),
    Artifact(name="clean", folder=CLEAN, manifest="manifest.json", stage="clean"),
    Artifact(name="tokens", folder=TOKENS, manifest="manifest.json", stage="tokenize"),
    Artifact(name="shards", folder=SHARDS, manifest="manifest.json", stage="shard"),
    Artifact(name="model", folder=MODEL, manifest=LINEAGE, stage="train"),
)


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
        files = [file for file in (root / artifact.folder).rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        plural = "" if len(problems) == 1 else "s"
        state = f"{len(problems)} problem{plural}" if problems else "ok"
        print(f"{artifact.name:8}{len(files):,} files, {size:,} bytes: {state}", flush=True)
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


def described(artifact: Artifact, manifest: dict[str, Any]) -> dict[str, str]:
    """Return the sha256 of each file by name, as in the manifest."""
    if artifact.name != "shards":
        return {file["name"]: file["sha256"] for file in manifest["files"]}
    sha256: dict[str, str] = {}
    for name, split in manifest["splits"].items():
        sha256 |= {f"{name}/{file['name']}": file["sha256"] for file in split["files"]}
        sha256[f"{name}/ends.npy"] = split["ends_sha256"]
    return sha256


def file_problems(artifact: Artifact, folder: Path, sha256: dict[str, str]) -> list[str]:
    """Return the files that are missing, changed, or not in the manifest."""
    problems = []
    for name, expected in sha256.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file} is missing; {artifact.remedy}")
        elif (actual := file_sha256(file)) != expected:
            problems.append(f"{file} has sha256 {actual}, not {expected}; {artifact.remedy}")
    known = {*sha256, artifact.manifest}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in known and not name.startswith("tokenizer/"):
            problems.append(f"{file} is not in {artifact.manifest}; remove it")
    return problems


def tokenizer_problems(artifact: Artifact, folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return whether the tokenizer has changed, as a list of problems."""
    about = manifest["data"] if artifact.name == "model" else manifest
    if artifact.name in ("corpus", "clean"):
        return []
    if files_fingerprint(read_files(folder / "tokenizer")) == about["tokenizer_fingerprint"]:
        return []
    return [f"{folder / 'tokenizer'} does not match its recorded fingerprint; {artifact.remedy}"]


def read_files(folder: Path) -> dict[str, str]:
    """Return the names and contents of a folder's files, whatever their encoding."""
    return {file.name: file.read_bytes().decode("utf-8", "replace") for file in folder.glob("*")}


def link_problems(artifact: Artifact, root: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the existing folders that this one was not made from, as problems."""
    about = manifest["data"] if artifact.name == "model" else manifest
    problems = []
    for source in ARTIFACTS:
        recorded = about.get(f"{source.name}_manifest_sha256")  # null if imported
        file = root / source.folder / source.manifest
        if recorded and file.is_file() and file_sha256(file) != recorded:
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
