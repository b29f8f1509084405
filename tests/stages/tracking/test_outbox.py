"""The outbox: what is recorded, in order, and nothing of it lost or doubled."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.tracking.outbox import Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def waiting(outbox: Outbox) -> list[list[int]]:
    """Return the values `n` of the pending entries by batch."""
    return [[entry["n"] for entry in batch] for batch, _ in outbox.batches(3)]


def test_entries_come_back_in_order_with_the_time(outbox: Outbox) -> None:
    outbox.append("tags", values={"a": "naïve\n"})
    outbox.append("metrics", step=3, values={"train/loss": 1.5})
    first, second = (entry for entry, _ in outbox.entries(0))
    assert first["time_ms"] <= second["time_ms"]
    assert {k: v for k, v in first.items() if k != "time_ms"} == {
        "kind": "tags",
        "values": {"a": "naïve\n"},
    }
    assert (second["kind"], second["step"], second["values"]) == (
        "metrics",
        3,
        {"train/loss": 1.5},
    )


def test_delivered_entries_are_not_pending_for_another_process_either(outbox: Outbox) -> None:
    assert not outbox.has_pending()
    for n in range(2):
        outbox.append("tags", n=n)
    (_, first_end), (_, second_end) = outbox.batches(3)
    assert outbox.has_pending()
    outbox.set_delivered(first_end)
    again = Outbox(outbox.folder)
    assert again.delivered() == first_end
    assert waiting(again) == [[1]]
    again.set_delivered(second_end)
    assert not again.has_pending()
    again.append("tags", n=2)
    assert waiting(again) == [[2]]


def test_metrics_are_batched_and_everything_else_comes_alone_in_order(outbox: Outbox) -> None:
    for n, kind in enumerate(["metrics"] * 4 + ["tags", "tags", "metrics", "status", "metrics"]):
        outbox.append(kind, n=n)
    assert waiting(outbox) == [[0, 1, 2], [3], [4], [5], [6], [7], [8]]


def test_every_batch_ends_where_the_next_begins(outbox: Outbox) -> None:
    for n, kind in enumerate(["metrics", "metrics", "tags", "metrics"]):
        outbox.append(kind, n=n)
    ends = [end for _, end in outbox.batches(3)]
    assert ends == sorted(ends)
    assert ends[-1] == outbox.file.stat().st_size
    outbox.set_delivered(ends[0])
    assert waiting(outbox) == [[2], [3]]


def test_a_partial_last_line_is_dropped_before_the_next_entry(outbox: Outbox) -> None:
    outbox.append("tags", n=0)
    with outbox.file.open("a") as file:
        file.write('{"kind": "tags", "n"')
    again = Outbox(outbox.folder)
    again.append("tags", n=2)
    assert waiting(again) == [[0], [2]]


def test_a_line_that_is_being_written_is_left_for_later(outbox: Outbox) -> None:
    outbox.append("tags", n=0)
    with outbox.file.open("a") as file:
        file.write('{"kind": "tags", "n"')
        file.flush()
        assert waiting(outbox) == [[0]]
        file.write(": 1}\n")
    assert waiting(outbox) == [[0], [1]]


def test_a_file_with_only_a_partial_line_has_nothing_pending(outbox: Outbox) -> None:
    outbox.file.write_text("{")
    again = Outbox(outbox.folder)
    assert not again.has_pending()
    assert outbox.file.read_bytes() == b"{"  # another process may be writing it
    again.append("tags", n=0)
    assert waiting(again) == [[0]]


def test_what_one_process_appends_survives_others_that_open_the_outbox(outbox: Outbox) -> None:
    script = """
import sys
from pathlib import Path
from stages.tracking.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for n in range(2000):
    outbox.append("tags", n=n, values={"text": "x" * 300})
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(outbox.folder)])
    while process.poll() is None:
        Outbox(outbox.folder).has_pending()
    assert process.returncode == 0
    assert [entry["n"] for entry, _ in outbox.entries(0)] == list(range(2000))


def test_files_are_copied_when_recorded_and_removed_when_delivered(
    outbox: Outbox, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "deep" / "weights").write_text("as recorded")
    note = tmp_path / "note.txt"
    note.write_text("as recorded")
    outbox.append_files("model", model, path="best")
    outbox.append_files("artifacts", note)
    (model / "deep" / "weights").write_text("changed")
    note.unlink()

    (first, first_end), (second, second_end) = outbox.entries(0)
    assert first["path"] == "best"
    assert Path(outbox.folder, first["files"], "deep", "weights").read_text() == "as recorded"
    assert Path(outbox.folder, second["files"], "note.txt").read_text() == "as recorded"
    outbox.set_delivered(first_end)
    assert not Path(outbox.folder, first["files"]).exists()
    assert Path(outbox.folder, second["files"]).exists()
    outbox.set_delivered(second_end)
    assert list((outbox.folder / "files").iterdir()) == []


def test_the_last_step_is_the_highest_with_a_training_loss(outbox: Outbox) -> None:
    assert outbox.last_step("train/loss") == 0
    outbox.append("metrics", step=20, values={"train/loss": 2.0})
    outbox.append("metrics", step=10, values={"train/loss": 3.0})
    outbox.append("metrics", step=30, values={"val/loss": 1.0})
    outbox.append("system", values={"cpu": 1.0})
    assert outbox.last_step("train/loss") == 20
    outbox.set_delivered(outbox.file.stat().st_size)
    assert outbox.last_step("train/loss") == 20
