import resource
import subprocess
import sys
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


def test_a_write_that_failed_is_told_soon_and_at_the_end(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 8, np.uint16) as writer:
        (tmp_path / "train" / "00000.npy").mkdir()
        with pytest.raises(IsADirectoryError):
            for _ in range(AHEAD + 2):
                writer.add(TOKENS, ENDS, 25)
    with SplitWriter(tmp_path / "val", 8, np.uint16) as writer:
        (tmp_path / "val" / "00000.npy").mkdir()
        writer.add(TOKENS, ENDS, 25)
        with pytest.raises(IsADirectoryError):
            writer.finish()


def test_many_files_are_not_open_at_once(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, limits[1]))
    try:
        with SplitWriter(tmp_path / "train", 8, np.uint16) as writer:
            writer.add(np.arange(8 * 200, dtype=np.uint16), np.array([8 * 200]), 1)
            assert len(writer.finish()["files"]) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_full_disk_hides_no_other_error(tmp_path: Path) -> None:
    """What is left in a buffer cannot be written at the end, and need not be."""
    script = f"""
import resource, signal
import numpy as np
from pathlib import Path
from stages.tokens.split_writer import SplitWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with SplitWriter(Path({str(tmp_path / "train")!r}), 1 << 20, np.uint16) as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    writer.add(np.arange(10, dtype=np.uint16), np.array([10]), 1)
    writer.wait()
    raise KeyError("the user's")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.endswith('KeyError: "the user\'s"\n')
