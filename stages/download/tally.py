"""What became of files: how many were read, what was left out, which encodings were guessed."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts kept while files are read; a member of an archive counts as a file."""

    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # files and documents, by reason
    guessed: dict[str, str] = field(default_factory=dict)  # file: encoding

    def add(self, other: "Tally", prefix: str = "") -> None:
        """Take over the counts of another one, whose files go by names that begin with `prefix`."""
        self.read += other.read
        self.skipped.update(other.skipped)
        self.guessed |= {prefix + name: codec for name, codec in other.guessed.items()}
