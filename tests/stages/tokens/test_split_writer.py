from pathlib import Path

import numpy as np
import pytest

from stages.tokens.split_writer import AHEAD, SplitWriter

TOKENS = np.arange(10, dtype=np.uint16)
ENDS = np.array([4, 10])


def test_a_split_is_cut_into_files_that_numpy_reads(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 8, np.uint16) as writer:
        for _ in range(3):
            writer.add(TOKENS, ENDS, 25)
        about = writer.finish()
    assert [file["tokens"] for file in about["files"]] == [8, 8, 8, 6]
    assert (about["documents"], about["tokens"], about["bytes"]) == (6, 30, 75)
    files = [np.load(tmp_path / "train" / file["name"]) for file in about["files"]]
    assert np.concatenate(files).tolist() == [*range(10)] * 3
    assert np.load(tmp_path / "train" / "ends.npy").tolist() == [4, 10, 14, 20, 24, 30]


def test_nothing_is_written_once_it_is_over(tmp_path: Path) -> None:
    """Who removes the folder then meets no new file in it."""
    with pytest.raises(KeyError), SplitWriter(tmp_path / "train", 8, np.uint16) as writer:
        writer.add(TOKENS, ENDS, 25)
        raise KeyError
    with pytest.raises(RuntimeError, match="after shutdown"):
        writer.add(TOKENS, ENDS, 25)


def test_a_write_that_failed_is_told_by_the_next(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 8, np.uint16) as writer:
        (tmp_path / "train" / "00000.npy").mkdir()
        with pytest.raises(IsADirectoryError):
            for _ in range(AHEAD + 2):
                writer.add(TOKENS, ENDS, 25)
