import hashlib
import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from stages.shard.split_writer import SplitWriter

TOKENS = np.arange(3000, dtype=np.uint16)
ENDS = np.array([4, 10, 3000])


def test_a_split_is_cut_into_files_that_numpy_reads(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 30, 8, np.uint16) as writer:
        writer.write(0, TOKENS[:30])
        about = writer.finish(np.array([4, 30]), 75)
    assert [file["tokens"] for file in about["files"]] == [8, 8, 8, 6]
    assert (about["documents"], about["tokens"], about["bytes"]) == (2, 30, 75)
    files = [np.load(tmp_path / "train" / file["name"]) for file in about["files"]]
    assert np.concatenate(files).tolist() == list(range(30))
    assert np.load(tmp_path / "train" / "ends.npy").tolist() == [4, 30]


def test_a_file_equals_what_numpy_would_save(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 3000, 3000, np.uint32) as writer:
        writer.write(0, TOKENS.astype(np.uint32))
        (about,) = writer.finish(ENDS, 1)["files"]
    saved = BytesIO()
    np.save(saved, TOKENS.astype(np.uint32))
    assert (tmp_path / "train" / about["name"]).read_bytes() == saved.getvalue()
    assert about["sha256"] == hashlib.sha256(saved.getvalue()).hexdigest()


@pytest.mark.parametrize("threads", [1, 8])
def test_the_order_of_writes_does_not_matter(
    tmp_path: Path, threads: int, digests: Callable[[Path], dict[str, str]]
) -> None:
    positions = list(range(0, 3000, 7))
    with SplitWriter(tmp_path / "one", 3000, 1000, np.uint16) as writer:
        writer.write(0, TOKENS)
        expected = writer.finish(ENDS, 1)
    random.Random(threads).shuffle(positions)
    with SplitWriter(tmp_path / "many", 3000, 1000, np.uint16) as writer:
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(writer.write, p, TOKENS[p : p + 7]) for p in positions]
        assert not any(future.exception() for future in futures)
        assert writer.finish(ENDS, 1) == expected
    assert digests(tmp_path / "many") == digests(tmp_path / "one")


def test_an_incomplete_split_is_not_finished(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", 3000, 1000, np.uint16) as writer:
        writer.write(0, TOKENS[:2999])
        with pytest.raises(AssertionError):
            writer.finish(ENDS, 1)


def test_files_are_not_all_open_at_once(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, limits[1]))
    try:
        with SplitWriter(tmp_path / "train", 3000, 15, np.uint16) as writer:
            writer.write(0, TOKENS)
            assert len(writer.finish(ENDS, 1)["files"]) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
