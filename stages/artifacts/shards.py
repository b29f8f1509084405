"""The shards folder: two splits in files of tokens, their tokenizer and the manifest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanogpt.data.stream import TokenStream

SHARDS = Path("data/shards")
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Split:
    """What the manifest says of one split."""

    documents: int
    tokens: int
    bytes: int  # of its text in UTF-8


@dataclass(frozen=True, kw_only=True)
class Shards:
    """A shards folder: two splits, the tokenizer and the manifest."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Read the manifest.

        Raises ValueError if it is missing, damaged or of another version.
        """
        file = folder / "manifest.json"
        if not file.is_file():
            raise ValueError(f"{file} is missing; run `dvc repro shard` to create it")
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}); run `dvc repro -f shard` to rebuild it"
            ) from None
        if manifest["version"] != VERSION:
            raise ValueError(f"{file} has version {manifest['version']}, not {VERSION}")
        return cls(folder=folder, manifest=manifest)

    @property
    def n_vocab(self) -> int:
        """Return the size of the vocabulary."""
        size: int = self.manifest["n_vocab"]
        return size

    @property
    def eot_token(self) -> int:
        """Return the end-of-text token, which follows every document."""
        token: int = self.manifest["separator"]
        return token

    def split(self, name: str) -> Split:
        """Return what the manifest says of `train` or `val`."""
        described = self.manifest["splits"][name]
        return Split(**{key: described[key] for key in ("documents", "tokens", "bytes")})

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer of these shards."""
        return self.folder / "tokenizer"

    def stream(self, split: str) -> "TokenStream":
        """Return the tokens of `train` or `val`.

        Raises ValueError if a file does not match the manifest.
        """
        from nanogpt.data.stream import TokenStream

        described = self.manifest["splits"][split]["files"]
        dtype = np.dtype(self.manifest["dtype"])
        for file in described:
            check_file(self.folder / split / file["name"], file["tokens"], dtype)
        return TokenStream.open([self.folder / split / file["name"] for file in described])

    def ends(self, split: str) -> "NDArray[np.int64]":
        """Return where each document ends in its stream (documents,), after its end-of-text token.

        Raises ValueError if the file does not match the manifest.
        """
        file = self.folder / split / "ends.npy"
        check_file(file, self.manifest["splits"][split]["documents"], np.dtype(np.int64))
        ends: NDArray[np.int64] = np.load(file, mmap_mode="r")
        return ends


def check_file(file: Path, tokens: int, dtype: "np.dtype[Any]") -> None:
    """Raise ValueError unless a file has the length and type that the manifest records."""
    try:
        shard = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        problem = f"cannot be read ({error})"
    else:
        if len(shard) == tokens and shard.dtype == dtype:
            return
        problem = f"holds {len(shard)} {shard.dtype}, the manifest says {tokens} {dtype}"
    raise ValueError(f"{file} {problem}; run `dvc repro -f shard` to rebuild it")
