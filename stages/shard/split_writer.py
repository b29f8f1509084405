"""Writes one split of the shards: a stream of tokens cut into `.npy` files, and `ends.npy`.

Its length is known before, so that several threads can write at several places of it at once: the
files are the same whoever comes first. Memory grows with neither their number nor their size.
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

HASHERS = 2  # threads: what is left to be hashed once all is written


class NpyFile:
    """A `.npy` file of `length` values, written in any order; it is as `np.save` would write it.

    It is open only while something is written: a split can have more files than may be open.
    """

    def __init__(self, path: Path, length: int, dtype: DTypeLike) -> None:
        self.path, self.length, self.dtype = path, length, np.dtype(dtype)
        self.missing = length
        header = io.BytesIO()
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(header, about)
        self.start = path.write_bytes(header.getvalue())

    def write(self, first: int, values: NDArray[Any]) -> None:
        """Write values from the `first` on. Raises OSError."""
        with self.path.open("r+b") as file:
            file.seek(self.start + first * self.dtype.itemsize)
            file.write(np.ascontiguousarray(values, self.dtype).data)


class SplitWriter:
    """Writes one split of `n_tokens`, `shard_tokens` to a file. Used in a `with`.

    A file is hashed, and brought to the disk, once all of it is there, while others are written.
    """

    def __init__(self, folder: Path, n_tokens: int, shard_tokens: int, dtype: DTypeLike) -> None:
        folder.mkdir()
        self.folder, self.n_tokens, self.shard_tokens = folder, n_tokens, shard_tokens
        self.shards = [
            NpyFile(folder / f"{number:05d}.npy", min(shard_tokens, n_tokens - first), dtype)
            for number, first in enumerate(range(0, n_tokens, shard_tokens))
        ]
        self.hashing, self.counting = ThreadPoolExecutor(HASHERS), Lock()
        self.hashed: dict[Path, Future[str]] = {}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.hashing.shutdown(cancel_futures=True)

    def write(self, first: int, tokens: NDArray[np.unsignedinteger]) -> None:
        """Write tokens, separators included, from the `first` of the stream on; by any thread.

        No place may be written twice. Raises OSError.
        """
        for shard, within, some in self.pieces(first, tokens):
            shard.write(within, some)
            with self.counting:
                shard.missing -= len(some)
                if not shard.missing:
                    self.hashed[shard.path] = self.hashing.submit(flushed_sha256, shard.path)

    def pieces(
        self, first: int, tokens: NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[NpyFile, int, NDArray[np.unsignedinteger]]]:
        """What goes into which file, and where in it."""
        while len(tokens):
            number, within = divmod(first, self.shard_tokens)
            some = tokens[: self.shard_tokens - within]
            yield self.shards[number], within, some
            first, tokens = first + len(some), tokens[len(some) :]

    def finish(self, ends: NDArray[np.int64], n_bytes: int) -> dict[str, Any]:
        """The split's description, once all is written.

        `ends`: where each document ends in the stream; n_bytes of text are in them.
        """
        assert not any(shard.missing for shard in self.shards)
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
                    "sha256": self.hashed[shard.path].result(),
                }
                for shard in self.shards
            ],
        }
