"""Stage `shard`: token rows to memory-mapped files, training and validation apart.

A split is one long stream, cut into `.npy` files of shard_tokens: document, separator, document,
separator. `ends.npy` holds where each document ends in it, the separator included.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from nanogpt.files import file_sha256, whole_folder
from stages.command import main
from stages.params import Section, load_section
from stages.settings import Settings
from stages.shards import VERSION
from stages.split import SplitParams, split_documents

TOKENS, OUT = Path("data/tokens"), Path("data/shards")
BATCH_DOCUMENTS = 64


class ShardParams(Section):
    """The section `shard`."""

    shard_tokens: int = Field(ge=1024, le=1 << 32)


class SplitWriter:
    """Writes one split: full shards as they fill, the rest at the end."""

    def __init__(self, folder: Path, shard_tokens: int, dtype: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.buffer = np.empty(shard_tokens, dtype=dtype)
        self.used = 0
        self.ends: list[int] = []
        self.n_tokens = self.n_bytes = 0
        self.files: list[dict[str, Any]] = []

    def add(self, tokens: NDArray[np.unsignedinteger], n_bytes: int) -> None:
        """Append one document with its separator."""
        self.n_tokens += len(tokens)
        self.n_bytes += n_bytes
        self.ends.append(self.n_tokens)
        while len(tokens):
            taken = min(len(tokens), len(self.buffer) - self.used)
            self.buffer[self.used : self.used + taken] = tokens[:taken]
            self.used, tokens = self.used + taken, tokens[taken:]
            if self.used == len(self.buffer):
                self.write_shard()

    def write_shard(self) -> None:
        """Write what the buffer holds as one file."""
        path = self.folder / f"{len(self.files):05d}.npy"
        np.save(path, self.buffer[: self.used])
        self.files.append({"name": path.name, "tokens": self.used, "sha256": file_sha256(path)})
        self.used = 0

    def finish(self) -> dict[str, Any]:
        """Write what is left; the split's description."""
        if self.used:
            self.write_shard()
        np.save(self.folder / "ends.npy", np.array(self.ends, dtype=np.int64))
        return {
            "documents": len(self.ends),
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "ends_sha256": file_sha256(self.folder / "ends.npy"),
            "files": self.files,
        }


def token_rows(tokens: Path) -> Iterator[tuple[NDArray[np.unsignedinteger], int]]:
    """(ids, bytes of text) of each document, in order."""
    for file in sorted(tokens.glob("*.parquet")):
        columns = ["tokens", "n_bytes"]
        for batch in pq.ParquetFile(file).iter_batches(BATCH_DOCUMENTS, columns=columns):
            lists = batch.column("tokens")
            flat = lists.values.to_numpy(zero_copy_only=False)
            offsets, n_bytes = lists.offsets.to_numpy(), batch.column("n_bytes").to_pylist()
            for i, size in enumerate(n_bytes):
                yield flat[offsets[i] : offsets[i + 1]], size


def text_hashes(tokens: Path) -> list[bytes]:
    """The text hash of each document, in order."""
    hashes: list[bytes] = []
    for file in sorted(tokens.glob("*.parquet")):
        hashes.extend(pq.read_table(file, columns=["text_hash"]).column(0).to_pylist())
    return hashes


def run(params: ShardParams, split: SplitParams, tokens: Path, out: Path) -> None:
    """Write both splits, the tokenizer and the manifest."""
    source = json.loads((tokens / "manifest.json").read_text(encoding="utf-8"))
    separator, dtype = source["n_vocab"] - 1, source["dtype"]
    is_val = split_documents(text_hashes(tokens), split)
    with whole_folder(out) as folder:
        writers = {
            name: SplitWriter(folder / name, params.shard_tokens, dtype)
            for name in ("train", "val")
        }
        for (ids, n_bytes), val in zip(token_rows(tokens), is_val, strict=True):
            if len(ids) and ids.max() >= separator:
                raise ValueError(
                    f"{tokens} holds id {ids.max()}, the vocabulary ends at {separator}"
                )
            document = np.append(ids, np.array([separator], dtype=dtype))
            writers["val" if val else "train"].add(document, n_bytes)
        manifest = {
            "version": VERSION,
            "dtype": dtype,
            "n_vocab": source["n_vocab"],
            "separator": separator,
            "tokenizer_fingerprint": source["tokenizer_fingerprint"],
            "corpus_manifest_sha256": source["corpus_manifest_sha256"],
            "tokens_manifest_sha256": file_sha256(tokens / "manifest.json"),
            "split": split.model_dump(),
            "splits": {name: writer.finish() for name, writer in writers.items()},
        }
        shutil.copytree(tokens / "tokenizer", folder / "tokenizer")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for name, writer in writers.items():
        print(f"shard: {name} {len(writer.ends):,} documents, {writer.n_tokens:,} tokens")


def run_stage(settings: Settings) -> None:
    """`python -m stages.shard`."""
    run(load_section("shard", ShardParams), load_section("split", SplitParams), TOKENS, OUT)


if __name__ == "__main__":
    main("shard", run_stage)
