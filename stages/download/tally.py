"""Counts of the files that were read or left out, and of the encodings that were guessed."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts updated while files are read; a member of an archive counts as a file."""

    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # files and documents, by reason
    guessed: dict[str, str] = field(default_factory=dict)  # file name: encoding

    def add(self, other: "Tally", prefix: str = "") -> None:
        """Add the counts of another tally, with `prefix` before the names of its files."""
        self.read += other.read
        self.skipped.update(other.skipped)
        self.guessed |= {prefix + name: codec for name, codec in other.guessed.items()}
