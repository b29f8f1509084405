"""Writer of one split of the shards: a stream of tokens cut into `.npy` files, and `ends.npy`.

The length is known beforehand, so several threads can write at different positions at once; the
files are the same in any order. Memory grows with neither the number nor the size of the files.
"""

import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanogpt.files import flushed_sha256

HASHERS = 2  # threads, so that little is left to hash after the last write


class NpyFile:
    """A `.npy` file of `length` values, written in any order, as `np.save` would write it.

    It is open only during a write: a split can have more files than a process may open.
    """

    def __init__(self, path: Path, length: int, dtype: DTypeLike) -> None:
        self.path, self.length, self.dtype = path, length, np.dtype(dtype)
        self.remaining = length  # values not yet written
        header = io.BytesIO()
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(header, about)
        self.start = path.write_bytes(header.getvalue())

    def write(self, first: int, values: NDArray[Any]) -> None:
        """Write values at position `first`. Raises OSError if that fails."""
        with self.path.open("r+b") as file:
            file.seek(self.start + first * self.dtype.itemsize)
            file.write(np.ascontiguousarray(values, self.dtype).data)


class SplitWriter:
    """Writes one split of `n_tokens`, with `shard_tokens` in each file; a context manager.

    A file is hashed and flushed to disk as soon as it is complete, while others are written.
    """

    def __init__(self, folder: Path, n_tokens: int, shard_tokens: int, dtype: DTypeLike) -> None:
        folder.mkdir()
        self.folder, self.n_tokens, self.shard_tokens = folder, n_tokens, shard_tokens
        self.shards = [
            NpyFile(folder / f"{number:05d}.npy", min(shard_tokens, n_tokens - first), dtype)
            for number, first in enumerate(range(0, n_tokens, shard_tokens))
        ]
        self.hashers, self.lock = ThreadPoolExecutor(HASHERS), Lock()
        self.hashes: dict[Path, Future[str]] = {}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.hashers.shutdown(cancel_futures=True)

    def write(self, first: int, tokens: NDArray[np.unsignedinteger]) -> None:
        """Write tokens, with their end-of-text tokens, at position `first` of the stream.

        Any thread may call this, but no position may be written twice. Raises OSError if writing
        fails.
        """
        for shard, offset, values in self.cut(first, tokens):
            shard.write(offset, values)
            with self.lock:
                shard.remaining -= len(values)
                if not shard.remaining:
                    self.hashes[shard.path] = self.hashers.submit(flushed_sha256, shard.path)

    def cut(
        self, first: int, tokens: NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[NpyFile, int, NDArray[np.unsignedinteger]]]:
        """Yield each file that the tokens go into, the position in it and the tokens for it."""
        while len(tokens):
            number, offset = divmod(first, self.shard_tokens)
            values = tokens[: self.shard_tokens - offset]
            yield self.shards[number], offset, values
            first, tokens = first + len(values), tokens[len(values) :]

    def finish(self, ends: NDArray[np.int64], n_bytes: int) -> dict[str, Any]:
        """Write `ends.npy`, after all tokens, and return the split's entry for the manifest.

        `ends` (documents,) is where each document ends in the stream, `n_bytes` the size of their
        text.
        """
        assert not any(shard.remaining for shard in self.shards)
        np.save(self.folder / "ends.npy", ends)
        return {
            "documents": len(ends),
            "tokens": self.n_tokens,
            "bytes": n_bytes,
            "ends_sha256": flushed_sha256(self.folder / "ends.npy"),
            "files": [
                {
                    "name": shard.path.name,
                    "tokens": shard.length,
                    "sha256": self.hashes[shard.path].result(),
                }
                for shard in self.shards
            ],
        }
