"""Is everything still as it was written? `python -m stages verify` reads all there is and reports.

Corpus to model: every file is compared with the sha256 in its folder's manifest, every manifest
with what the next folder says it was made from, and the params and code it names with dvc.lock.
What is not there yet is no failure.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt.files import file_sha256
from stages.formats.dvc_lock import (
    chain_problems,
    code_problems,
    locked_stages,
    params_problems,
    read_accepted,
)
from stages.runtime.settings import Settings
from stages.tokenizers.tokenizer import files_fingerprint
from stages.tools.check import SECTIONS


@dataclass(frozen=True, kw_only=True)
class Room:
    """A folder of the pipeline, the file in it that describes the others, the stage it is from."""

    name: str
    folder: str
    manifest: str
    stage: str
    imported: bool = False  # by stages.tools.token_files

    @property
    def remedy(self) -> str:
        """What makes the folder again."""
        command = "python -m stages token-files" if self.imported else f"dvc repro -f {self.stage}"
        return f"`{command}` makes it again"


ROOMS = (
    Room(name="corpus", folder="data/corpus", manifest="manifest.json", stage="download"),
    Room(name="clean", folder="data/clean", manifest="manifest.json", stage="clean"),
    Room(name="tokens", folder="data/tokens", manifest="manifest.json", stage="tokenize"),
    Room(name="shards", folder="data/shards", manifest="manifest.json", stage="shard"),
    Room(name="model", folder="models/gpt", manifest="lineage.json", stage="train"),
)


def verify(root: Path) -> list[str]:
    """Print a line for each room; all that is wrong. Raises ValueError when there is nothing."""
    present = [room for room in ROOMS if (root / room.folder).is_dir()]
    if not present:
        folders = ", ".join(room.folder for room in ROOMS)
        raise ValueError(f"there is nothing to verify: no {folders}; `dvc repro` makes them")
    locked = locked_stages(root)
    found = []
    for room in ROOMS:
        if room not in present:
            print(f"{room.name:8}not there yet")
            continue
        problems = room_problems(room, root, locked.get(room.stage, {}))
        files = [file for file in (root / room.folder).rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        state = f"{len(problems)} wrong" if problems else "as written"
        print(f"{room.name:8}{len(files):,} files, {size:,} bytes: {state}", flush=True)
        found += problems
    return found + chain_problems(locked)


def room_problems(room: Room, root: Path, locked: Mapping[str, Any]) -> list[str]:
    """What is wrong in a folder that is there."""
    folder = root / room.folder
    file = folder / room.manifest
    if not file.is_file():
        return [f"{file} is missing; {room.remedy}"]
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        room = replace(room, imported="imported" in manifest)
        changed = file_problems(room, folder, described(room, manifest))
        return [
            *changed,
            *tokenizer_problems(room, folder, manifest),
            *link_problems(room, root, manifest),
            *lock_problems(room, folder, manifest, locked),
            *([] if changed else model_problems(room, folder)),
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{file} is not as it was written ({error!r}); {room.remedy}"]


def described(room: Room, manifest: dict[str, Any]) -> dict[str, str]:
    """The sha256 of each file by name, as the manifest gives it."""
    if room.name != "shards":
        return {file["name"]: file["sha256"] for file in manifest["files"]}
    sha256: dict[str, str] = {}
    for name, split in manifest["splits"].items():
        sha256 |= {f"{name}/{file['name']}": file["sha256"] for file in split["files"]}
        sha256[f"{name}/ends.npy"] = split["ends_sha256"]
    return sha256


def file_problems(room: Room, folder: Path, sha256: dict[str, str]) -> list[str]:
    """Files that are missing, changed, or not in the manifest."""
    problems = []
    for name, expected in sha256.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file} is missing; {room.remedy}")
        elif (found := file_sha256(file)) != expected:
            problems.append(f"{file} has sha256 {found}, not {expected}; {room.remedy}")
    known = {*sha256, room.manifest}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in known and not name.startswith("tokenizer/"):
            problems.append(f"{file} is not in {room.manifest}; remove it")
    return problems


def tokenizer_problems(room: Room, folder: Path, manifest: dict[str, Any]) -> list[str]:
    """A tokenizer that has another fingerprint than the one it had."""
    about = manifest["data"] if room.name == "model" else manifest
    if room.name in ("corpus", "clean"):
        return []
    if files_fingerprint(read_files(folder / "tokenizer")) == about["tokenizer_fingerprint"]:
        return []
    return [f"{folder / 'tokenizer'} has another fingerprint than it had; {room.remedy}"]


def read_files(folder: Path) -> dict[str, str]:
    """Names and contents, of whatever kind they are."""
    return {file.name: file.read_bytes().decode("utf-8", "replace") for file in folder.glob("*")}


def link_problems(room: Room, root: Path, manifest: dict[str, Any]) -> list[str]:
    """Folders that are there but are not the ones this one was made from."""
    about = manifest["data"] if room.name == "model" else manifest
    problems = []
    for source in ROOMS:
        said = about.get(f"{source.name}_manifest_sha256")  # null where tokens were brought in
        file = root / source.folder / source.manifest
        if said and file.is_file() and file_sha256(file) != said:
            problems.append(
                f"{root / room.folder} was not made from the {root / source.folder} that is there; "
                f"`dvc repro {room.stage}` makes them agree"
            )
    return problems


def lock_problems(
    room: Room, folder: Path, manifest: dict[str, Any], locked: Mapping[str, Any]
) -> list[str]:
    """What dvc.lock records otherwise; nothing of a folder that no stage made."""
    if room.imported:
        return []
    is_model = room.name == "model"
    problems = params_problems(locked, manifest["params"] if is_model else manifest, SECTIONS)
    if is_model:
        problems += code_problems(
            locked, manifest["code"].get("files_md5", {}), read_accepted(folder.parents[1])
        )
    return [f"{folder} was {problem}; {room.remedy}" for problem in problems]


def model_problems(room: Room, folder: Path) -> list[str]:
    """A model that cannot be loaded."""
    if room.name != "model":
        return []
    import torch

    from nanogpt.model.files import load_model

    try:
        load_model(folder, torch.device("cpu"))
    except ValueError as error:
        return [f"{error}; {room.remedy}"]
    return []


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages verify`."""
    if problems := verify(Path()):
        raise ValueError("\n".join(problems))
