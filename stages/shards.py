"""What lies in a shards folder, for the stages that read it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nanogpt.data import TokenStream

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shards:
    """A shards folder: two splits, the tokenizer and the manifest."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Read the manifest. Raises ValueError when it is missing or of another version."""
        file = folder / "manifest.json"
        if not file.is_file():
            raise ValueError(f"{file} is missing; `dvc repro shard` makes it")
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise ValueError(f"{file} has version {manifest['version']}, not {VERSION}")
        return cls(folder=folder, manifest=manifest)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer of these shards lies."""
        return self.folder / "tokenizer"

    def stream(self, split: str) -> "TokenStream":
        """The tokens of `train` or `val`. Raises ValueError at a file that is not as written."""
        from nanogpt.data import TokenStream

        described = self.manifest["splits"][split]["files"]
        stream = TokenStream.open([self.folder / split / file["name"] for file in described])
        for file, shard in zip(described, stream.shards, strict=True):
            if len(shard) != file["tokens"] or shard.dtype != np.dtype(self.manifest["dtype"]):
                raise ValueError(
                    f"{self.folder / split / file['name']} holds {len(shard)} {shard.dtype}, the "
                    f"manifest says {file['tokens']} {self.manifest['dtype']}; "
                    "`dvc repro -f shard` makes it anew"
                )
        return stream
