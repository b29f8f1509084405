"""The files that a store was given, kept for another one: a new server, or an empty database.

They are laid out as in the store, with the newest file of each name. Weights are large, so only
their hashes are kept, by which they are found where the project still has them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanogpt.files import atomic_write, file_sha256, link
from stages.artifacts.model import MODEL
from stages.runtime.project import project_folder

WEIGHTS = ".safetensors"
KINDS = ("artifacts", "model")  # of entries with files, in the order in which they are sent again
ELSEWHERE = ("runs", "mlartifacts")  # folders of the project with weights, besides its model

Hash = dict[str, int | str]


class Kept:
    """A folder with the files of each kind, and the hashes of weights in `weights.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes_file = folder / "weights.json"

    def add(self, copy: Path, kind: str, path: str | None) -> None:
        """Take over the files of a copy; `path` is where they are among those of their kind."""
        place = self.folder / kind / (path or "")
        for file in files_in(copy):
            target = place / file.relative_to(copy)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        self.drop_weights()

    def drop_weights(self) -> None:
        """Replace weights by their hashes."""
        weights = [file for file in files_in(self.folder) if file.suffix == WEIGHTS]
        if not weights:
            return
        hashes, found = self.hashes(), dict[int, str]()
        for file in weights:
            about = file.stat()
            if about.st_ino not in found:  # the best weights are often the last ones
                found[about.st_ino] = file_sha256(file)
            name = file.relative_to(self.folder).as_posix()
            hashes[name] = {"bytes": about.st_size, "sha256": found[about.st_ino]}
        atomic_write(self.hashes_file, json.dumps(hashes, indent=2) + "\n")
        for file in weights:
            file.unlink()

    def hashes(self) -> dict[str, Hash]:
        """Return the size and the SHA-256 of the weights, by their path in the folder."""
        if not self.hashes_file.exists():
            return {}
        hashes: dict[str, Hash] = json.loads(self.hashes_file.read_text())
        return hashes

    def missing(self) -> list[str]:
        """Return the paths of the weights that the project no longer has."""
        return [name for name, about in self.hashes().items() if find_weights(about) is None]

    def has(self, kind: str) -> bool:
        """Return whether there are files of a kind."""
        return (self.folder / kind).is_dir()

    @contextmanager
    def with_weights(self, kind: str) -> Iterator[bool]:
        """Link the weights of a kind for a while; yield whether all were found."""
        linked, complete = list[Path](), True
        try:
            for name, about in self.hashes().items():
                if not name.startswith(f"{kind}/"):
                    continue
                file, source = self.folder / name, find_weights(about)
                if source is None:
                    complete = False
                    continue
                linked.append(file)
                if not (file.exists() and file.samefile(source)):  # left by a killed process
                    file.unlink(missing_ok=True)
                    link(source.resolve(), file)
            yield complete
        finally:
            for file in linked:
                file.unlink(missing_ok=True)


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder, at any depth."""
    return [file for file in folder.rglob("*") if file.is_file()]


def find_weights(about: Hash) -> Path | None:
    """Return a file of the project with this size and SHA-256."""
    project = project_folder()
    folders = (MODEL, project / MODEL, *(project / name for name in ELSEWHERE))
    for file in (file for folder in folders for file in folder.rglob(f"*{WEIGHTS}")):
        same_size = file.is_file() and file.stat().st_size == about["bytes"]
        if same_size and file_sha256(file) == about["sha256"]:
            return file
    return None
