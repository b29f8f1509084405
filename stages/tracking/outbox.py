"""An append-only file of entries on the local disk, and how far it has been delivered."""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanogpt.files import atomic_write, flush

Entry = dict[str, Any]


class Outbox:
    """JSON lines in `outbox.jsonl`, the bytes delivered in `delivered`, copies in `files/`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "outbox.jsonl"
        self.mark = folder / "delivered"
        self.lock = threading.Lock()
        self.drop_torn_line()

    def drop_torn_line(self) -> None:
        """Cut off what a killed process left of its last line."""
        content = self.file.read_bytes() if self.file.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.file.open("r+b") as file:
                file.truncate(whole)

    def append(self, kind: str, **values: Any) -> None:
        """Add one entry, stamped with the time."""
        entry = {"kind": kind, "time_ms": int(time.time() * 1000), **values}
        with self.lock, self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def append_files(self, kind: str, source: Path, **values: Any) -> None:
        """Add an entry that carries a copy of a file or folder, for its original may change."""
        copy = self.folder / "files" / uuid.uuid4().hex
        try:
            if source.is_dir():
                shutil.copytree(source, copy)
            else:
                copy.mkdir(parents=True)
                shutil.copy(source, copy / source.name)
        except OSError:  # of a full disk, which the part of a copy would keep full
            shutil.rmtree(copy, ignore_errors=True)
            raise
        self.append(kind, files=str(copy.relative_to(self.folder)), **values)

    def entries(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Whole entries from byte `start` on, each with the byte after it."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written right now
                start += len(line)
                yield json.loads(line), start

    def delivered(self) -> int:
        """Bytes of the file that have been delivered."""
        size = self.file.stat().st_size if self.file.exists() else 0
        return min(size, int(self.mark.read_text())) if self.mark.exists() else 0

    def set_delivered(self, offset: int) -> None:
        """Remember how far the delivery got and drop the copies it no longer needs."""
        done = [entry for entry, end in self.entries(self.delivered()) if end <= offset]
        flush(self.file)
        atomic_write(self.mark, str(offset))
        for entry in done:
            if "files" in entry:
                shutil.rmtree(self.folder / entry["files"], ignore_errors=True)

    def start_over(self) -> None:
        """Let everything wait again, but for files: their copies are gone once delivered."""
        atomic_write(self.mark, "0")

    def is_lost(self, entry: Entry) -> bool:
        """Return whether an entry's files were delivered once and are here no more."""
        return "files" in entry and not (self.folder / entry["files"]).exists()

    def is_waiting(self) -> bool:
        """Whether anything is left to deliver."""
        return any(not self.is_lost(entry) for entry, _ in self.entries(self.delivered()))

    def batches(self, size: int) -> Iterator[tuple[list[Entry], int]]:
        """What waits: runs of metrics together, everything else one by one; lost files left out."""
        batch: list[Entry] = []
        end = self.delivered()
        for entry, after in self.entries(end):
            if self.is_lost(entry):
                continue
            if batch and (entry["kind"] != "metrics" or len(batch) == size):
                yield batch, end
                batch = []
            batch.append(entry)
            end = after
            if entry["kind"] != "metrics":
                yield batch, end
                batch = []
        if batch:
            yield batch, end

    def last_step(self, metric: str) -> int:
        """The highest step a metric was recorded for."""
        steps = [
            entry["step"]
            for entry, _ in self.entries(0)
            if entry["kind"] == "metrics" and metric in entry["values"]
        ]
        return max(steps, default=0)
