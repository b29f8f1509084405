"""The data that a run skips after it diverged, once."""

import json
from pathlib import Path

import pytest

from nanogpt.train.skipped_data import NOTHING_SKIPPED, SkippedData
from nanogpt.train.trainer import NotFinite
from stages.runtime.outcome import end_file, write_end
from stages.train.skipped import read_skipped, skip_diverged


def ended(folder: Path, error: BaseException | None, step: int) -> None:
    """Write the end of a session in `folder`."""
    write_end(folder, finished=error is None, step=step, code="", error=error)


@pytest.mark.parametrize("checkpoints", [[], [20, 40]])
def test_a_diverged_run_skips_the_data_since_its_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoints: list[int]
) -> None:
    for step in checkpoints:
        (tmp_path / f"step-{step:08d}").mkdir()
    ended(tmp_path, NotFinite(47, "step 47: the loss is nan"), 47)
    skip_diverged(tmp_path)
    after = max(checkpoints, default=0)
    skipped = SkippedData(after_step=after, windows_of_steps=47 - after)
    assert read_skipped(tmp_path) == skipped
    assert json.loads((tmp_path / "skipped.json").read_text()) == [vars(skipped)]
    expected = f"diverged at step 47; resuming after step {after}, without the next {47 - after} "
    assert expected in capsys.readouterr().out
    skip_diverged(tmp_path)  # killed before it began: nothing more to do
    assert read_skipped(tmp_path) == skipped


def test_a_run_that_diverges_again_is_not_started(tmp_path: Path) -> None:
    ended(tmp_path, NotFinite(9, "step 9: the loss is nan"), 9)
    skip_diverged(tmp_path)
    ended(tmp_path, NotFinite(8, "step 8: the loss is nan (already skipped)"), 8)
    skipped = read_skipped(tmp_path)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="already skipped"):
            skip_diverged(tmp_path)
    assert end_file(tmp_path).exists()
    assert read_skipped(tmp_path) == skipped


@pytest.mark.parametrize("error", [None, ValueError("too hot")])
def test_whatever_else_ended_a_run_skips_nothing(
    tmp_path: Path, error: BaseException | None
) -> None:
    skip_diverged(tmp_path)  # there was no session yet
    ended(tmp_path, error, 10)
    skip_diverged(tmp_path)
    assert read_skipped(tmp_path) == NOTHING_SKIPPED


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        (range(0, 10), (range(0, 4), range(6, 12))),
        (range(4, 10), (range(4, 4), range(6, 12))),
        (range(7, 10), (range(7, 7), range(9, 12))),
        (range(2, 3), (range(2, 3), range(5, 5))),
    ],
)
def test_updates_after_the_gap_use_later_data(
    updates: range, expected: tuple[range, range]
) -> None:
    assert SkippedData(after_step=4, windows_of_steps=2).data_of(updates) == expected
    assert NOTHING_SKIPPED.data_of(updates)[1] == updates
