"""An append-only file of entries on the local disk, with the offset up to which it is delivered."""

import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt.files import atomic_write, flush, link
from stages.tracking.kept import KINDS, WEIGHTS, Kept

Entry = dict[str, Any]
CHECKPOINTS = "checkpoints"


def copy_or_link(source: str | Path, target: str | Path) -> None:
    """Copy a file, or link it if it holds weights."""
    if Path(source).suffix == WEIGHTS:
        link(Path(source), Path(target))
    else:
        shutil.copyfile(source, target)


def drop_partial_line(file: BinaryIO) -> None:
    """Truncate a last line that a killed process did not finish."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


class Outbox:
    """Entries as JSON lines in `outbox.jsonl`, the offset in `delivered`, copies in `files/`.

    `receiver` names what they were delivered to; `kept/` holds files in case that changes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "outbox.jsonl"
        self.offset_file = folder / "delivered"
        self.receiver_file = folder / "receiver"
        self.kept = Kept(folder / "kept")
        self.lock = threading.Lock()

    def append(self, kind: str, **values: Any) -> None:
        """Append an entry with a timestamp."""
        entry = {"kind": kind, "time_ms": int(time.time() * 1000), **values}
        with self.lock, self.file.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another process may be appending
            drop_partial_line(file)
            file.write(json.dumps(entry).encode() + b"\n")

    def checkpoints(self) -> "Outbox":
        """Return the outbox for checkpoints, which take long: nothing else waits for them."""
        return Outbox(self.folder / CHECKPOINTS)

    def has_checkpoints(self) -> bool:
        """Return whether there is an outbox for checkpoints."""
        return (self.folder / CHECKPOINTS).is_dir()

    def append_files(
        self, kind: str, source: Path, *, only: Collection[str] | None = None, **values: Any
    ) -> None:
        """Append an entry with a copy of a file or folder, since the original may change.

        Weights are linked, not copied: they are large, and only ever replaced as a whole. `only`
        names the files of a folder to take.
        """

        def left_out(_: str, names: list[str]) -> set[str]:
            return set() if only is None else set(names) - set(only)

        copy = self.folder / "files" / uuid.uuid4().hex
        try:
            if source.is_dir():
                shutil.copytree(source, copy, ignore=left_out, copy_function=copy_or_link)
            else:
                copy.mkdir(parents=True)
                copy_or_link(source, copy / source.name)
        except OSError:  # a partial copy would keep a full disk full
            shutil.rmtree(copy, ignore_errors=True)
            raise
        self.append(kind, files=str(copy.relative_to(self.folder)), **values)

    def entries(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield the complete entries from byte `start` on, each with the offset of its end."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                start += len(line)
                yield json.loads(line), start

    def delivered(self) -> int:
        """Return the offset in bytes up to which the file has been delivered."""
        size = self.file.stat().st_size if self.file.exists() else 0
        return min(size, int(self.offset_file.read_text())) if self.offset_file.exists() else 0

    def set_delivered(self, offset: int) -> None:
        """Record the offset of the delivery; of the copies that were delivered, keep the newest."""
        done = [entry for entry, end in self.entries(self.delivered()) if end <= offset]
        for entry in done:
            if "files" in entry:
                copy = self.folder / entry["files"]
                self.kept.add(copy, entry["kind"], entry.get("path"))
                shutil.rmtree(copy, ignore_errors=True)
        flush(self.file)
        atomic_write(self.offset_file, str(offset))

    def start_ms(self) -> int:
        """Return the time of the first entry, in milliseconds."""
        return int(next(self.entries(0))[0]["time_ms"])

    def receiver(self) -> str | None:
        """Return what the entries were delivered to; None if that is not known."""
        return self.receiver_file.read_text() if self.receiver_file.exists() else None

    def is_known_to(self, store: str | None) -> bool:
        """Return whether the entries were delivered to this store, as far as that is known."""
        receiver = self.receiver()
        return receiver is None or receiver.startswith(f"{store} ")

    def deliver_to(self, receiver: str) -> bool:
        """Record the store and the run that receive the entries; return whether either changed.

        If so, everything is pending again.
        """
        if receiver == self.receiver():
            return False
        atomic_write(self.offset_file, "0")
        atomic_write(self.receiver_file, receiver)
        return True

    def files_are_gone(self, entry: Entry) -> bool:
        """Return whether an entry's files are gone because they were delivered before."""
        return "files" in entry and not (self.folder / entry["files"]).exists()

    def has_weights(self, entry: Entry) -> bool:
        """Return whether an entry's files contain weights."""
        return "files" in entry and any((self.folder / entry["files"]).rglob(f"*{WEIGHTS}"))

    def has_entries(self) -> bool:
        """Return whether anything was recorded."""
        return any(True for _ in self.entries(0))

    def has_pending(self) -> bool:
        """Return whether anything is left to deliver."""
        return any(not self.files_are_gone(entry) for entry, _ in self.entries(self.delivered()))

    def batches(self, size: int) -> Iterator[tuple[list[Entry], int]]:
        """Yield the pending entries, less those whose files are gone, with the offset of their end.

        Consecutive metrics form batches of up to `size` entries; everything else comes alone. What
        an earlier receiver was given comes first.
        """
        if self.delivered() == 0:
            yield from self.kept_batches()
        batch: list[Entry] = []
        end = self.delivered()
        for entry, entry_end in self.entries(end):
            if self.files_are_gone(entry):
                continue
            if batch and (entry["kind"] != "metrics" or len(batch) == size):
                yield batch, end
                batch = []
            batch.append(entry)
            end = entry_end
            if entry["kind"] != "metrics":
                yield batch, end
                batch = []
        if batch:
            yield batch, end

    def kept_batches(self) -> Iterator[tuple[list[Entry], int]]:
        """Yield the files that an earlier receiver was given, as far as they are still here."""
        for kind in filter(self.kept.has, KINDS):
            with self.kept.with_weights(kind) as complete:
                if complete or kind != "model":  # which is none without its weights
                    yield [{"kind": kind, "files": f"kept/{kind}", "path": None}], 0

    def last_value(self, metric: str, step: int) -> float | None:
        """Return the last value of a metric that was recorded for `step` or an earlier one."""
        values = {
            entry["step"]: entry["values"][metric]
            for entry, _ in self.entries(0)
            if entry["kind"] == "metrics" and metric in entry["values"] and entry["step"] <= step
        }
        return values[max(values)] if values else None

    def last_step(self, metric: str) -> int:
        """Return the last step a metric was recorded for, 0 if there is none."""
        steps = [
            entry["step"]
            for entry, _ in self.entries(0)
            if entry["kind"] == "metrics" and metric in entry["values"]
        ]
        return max(steps, default=0)
