"""Writes one split of the shards: a stream of tokens cut into `.npy` files, and `ends.npy`.

All goes to the disk as it comes, by a thread of its own that leaves the interpreter to who makes
more: memory grows neither with the split nor with the size of a shard.
"""

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanogpt.files import flushed_sha256

AHEAD = 1  # groups of tokens that may wait to be written


class NpyFile:
    """A `.npy` file of one dimension that grows; in the end it is as `np.save` would write it."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.path, self.dtype, self.length = path, np.dtype(dtype), 0
        self.file = path.open("wb")
        self.file.write(self.header())

    def header(self) -> bytes:
        """What stands before the values; numpy pads it to one size for any length."""
        content = io.BytesIO()
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(content, about)
        return content.getvalue()

    def append(self, values: NDArray[Any]) -> None:
        """Write values behind those that are there."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        """Write how many values there are, and nothing more."""
        self.file.seek(0)
        self.file.write(self.header())
        self.file.close()


class SplitWriter:
    """Writes one split: a new file whenever the last one holds `shard_tokens`.

    To be used in a `with`: its threads end with that.
    """

    def __init__(self, folder: Path, shard_tokens: int, dtype: DTypeLike) -> None:
        folder.mkdir()
        self.folder, self.shard_tokens, self.dtype = folder, shard_tokens, dtype
        self.thread, self.hashing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.under_way: deque[Future[None]] = deque()
        self.shard: NpyFile | None = None
        self.ends = NpyFile(folder / "ends.npy", np.int64)
        self.n_tokens = self.n_bytes = 0
        self.finished: list[tuple[NpyFile, Future[str]]] = []  # and the sha256 of each

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        """Write nothing any more once this is over, however it ended."""
        self.thread.shutdown()
        self.hashing.shutdown()
        for unfinished in filter(None, (self.shard, self.ends)):
            with suppress(OSError):  # of what nobody will read
                unfinished.file.close()

    def add(
        self, tokens: NDArray[np.unsignedinteger], ends: NDArray[np.int64], n_bytes: int
    ) -> None:
        """Append tokens, separators included, after each of which a document `ends`.

        Raises OSError when what was added more than AHEAD calls before could not be written, as
        `finish` does of the rest.
        """
        self.wait(AHEAD)
        self.under_way.append(self.thread.submit(self.write, tokens, ends, n_bytes))

    def wait(self, most: int = 0) -> None:
        """Wait until `most` of what was added are not written yet. Raises OSError as `add` does."""
        while len(self.under_way) > most:
            self.under_way.popleft().result()

    def write(
        self, tokens: NDArray[np.unsignedinteger], ends: NDArray[np.int64], n_bytes: int
    ) -> None:
        """Write what was added."""
        self.ends.append(self.n_tokens + ends)
        self.n_tokens += len(tokens)
        self.n_bytes += n_bytes
        while len(tokens):
            self.shard = self.shard or NpyFile(self.folder / self.next_name(), self.dtype)
            room = self.shard_tokens - self.shard.length
            self.shard.append(tokens[:room])
            tokens = tokens[room:]
            if self.shard.length == self.shard_tokens:
                self.finish_shard(self.shard)

    def next_name(self) -> str:
        """The name of the file after those that are finished."""
        return f"{len(self.finished):05d}.npy"

    def finish_shard(self, shard: NpyFile) -> None:
        """Let a file that is complete be hashed, and reach the disk, while the next is written."""
        shard.close()
        self.finished.append((shard, self.hashing.submit(flushed_sha256, shard.path)))
        self.shard = None

    def finish(self) -> dict[str, Any]:
        """Complete the last files; the split's description."""
        self.wait()
        if self.shard:
            self.finish_shard(self.shard)
        self.ends.close()
        return {
            "documents": self.ends.length,
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "ends_sha256": flushed_sha256(self.ends.path),
            "files": [
                {"name": shard.path.name, "tokens": shard.length, "sha256": sha256.result()}
                for shard, sha256 in self.finished
            ],
        }
