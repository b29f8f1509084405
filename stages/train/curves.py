"""The loss curves of a training run, stored with the model as `train.csv` and `val.csv`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from nanogpt.files import atomic_write
from nanogpt.train.events import Evaluated, Started, StepDone, TrainEvent

TRAIN_COLUMNS = ("step", "loss", "lr", "grad_norm")
VAL_COLUMNS = ("step", "loss")


class Curve:
    """A CSV file to which rows are appended; the same steps give the same bytes."""

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        self.file = file
        self.columns = columns

    def start_after(self, step: int) -> None:
        """Drop the rows after `step`, where training resumes."""
        kept = [row for row in self.rows() if int(row["step"]) <= step]
        lines = [self.columns, *([row[name] for name in self.columns] for row in kept)]
        atomic_write(self.file, "".join(",".join(line) + "\n" for line in lines))

    def rows(self) -> list[Mapping[str, str]]:
        """Return all complete rows."""
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def add(self, *values: float) -> None:
        """Append one row."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{value:.9g}" for value in values) + "\n")


class Curves:
    """The curves in a folder; a handler of the training loop's events."""

    def __init__(self, folder: Path) -> None:
        self.train = Curve(folder / "train.csv", TRAIN_COLUMNS)
        self.val = Curve(folder / "val.csv", VAL_COLUMNS)

    def losses(self) -> list[float]:
        """Return the training loss of each step so far."""
        return [float(row["loss"]) for row in self.train.rows()]

    def handle(self, event: TrainEvent) -> None:
        """Append the values of one event; a start first drops the rows after its step."""
        if isinstance(event, Started):
            self.train.start_after(event.step)
            self.val.start_after(event.step)
        elif isinstance(event, StepDone):
            self.train.add(event.step, event.loss, event.lr, event.grad_norm)
        elif isinstance(event, Evaluated):
            self.val.add(event.step, event.loss)
