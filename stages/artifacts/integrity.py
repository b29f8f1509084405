"""Comparison of the folders that stages write with the hashes in their manifests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.files import file_sha256
from stages.artifacts.clean import CLEAN
from stages.artifacts.corpus import CORPUS
from stages.artifacts.model import LINEAGE, MODEL
from stages.artifacts.shards import SHARDS
from stages.artifacts.tokens import TOKENS
from stages.tokenizers.tokenizer import files_fingerprint


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An output folder: the file in it that describes the others, and the stage that writes it."""

    name: str
    folder: Path
    manifest: str
    stage: str
    imported: bool = False  # by stages.tools.token_files
    copied: bool = False  # by hand: no stage writes it there

    @property
    def remedy(self) -> str:
        """Return how to get the folder as it was written."""
        if self.copied:
            return "copy the folder again"
        command = "python -m stages token-files" if self.imported else f"dvc repro -f {self.stage}"
        return f"run `{command}` to rebuild it"


ARTIFACTS = (  # each is made from those before it
    Artifact(name="corpus", folder=CORPUS, manifest="manifest.json", stage="download"),
    Artifact(name="clean", folder=CLEAN, manifest="manifest.json", stage="clean"),
    Artifact(name="tokens", folder=TOKENS, manifest="manifest.json", stage="tokenize"),
    Artifact(name="shards", folder=SHARDS, manifest="manifest.json", stage="shard"),
    Artifact(name="model", folder=MODEL, manifest=LINEAGE, stage="train"),
)


def described(artifact: Artifact, manifest: dict[str, Any]) -> dict[str, str]:
    """Return the sha256 of each file by name, as in the manifest."""
    if artifact.name != "shards":
        return {file["name"]: file["sha256"] for file in manifest["files"]}
    sha256: dict[str, str] = {}
    for name, split in manifest["splits"].items():
        sha256 |= {f"{name}/{file['name']}": file["sha256"] for file in split["files"]}
        sha256[f"{name}/ends.npy"] = split["ends_sha256"]
    return sha256


def sources(artifact: Artifact, manifest: dict[str, Any]) -> dict[str, str | None]:
    """Return the sha256 of the manifest of each folder that this one was made from, by name.

    It is None if an import, not a folder, stands there.
    """
    about = manifest["data"] if artifact.name == "model" else manifest
    keys = {source.name: f"{source.name}_manifest_sha256" for source in ARTIFACTS}
    return {name: about[key] for name, key in keys.items() if key in about}


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


def size_line(folder: Path) -> str:
    """Return the number and the size of all files in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return f"{len(files):,} files, {sum(file.stat().st_size for file in files):,} bytes"
