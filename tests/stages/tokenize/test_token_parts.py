"""Groups of documents taken together: as many as an engine wants, in order, none twice."""

import pyarrow as pa
import pytest

from stages.tokenize.token_parts import together


def group(n_bytes: int) -> pa.RecordBatch:
    """One document of so many bytes."""
    return pa.record_batch({"text": pa.array(["x" * n_bytes], pa.large_string())})


@pytest.mark.parametrize(
    ("n_bytes", "runs"),
    [
        (0, [[900], [50], [60], [70], [2000], [1]]),  # one by one
        (1000, [[900, 50, 60], [70, 2000], [1]]),
        (1 << 20, [[900, 50, 60, 70, 2000, 1]]),
    ],
)
def test_groups_come_together_until_they_are_large_enough(
    n_bytes: int, runs: list[list[int]]
) -> None:
    groups = [group(size) for run in runs for size in run]
    found = list(together(iter(groups), n_bytes))
    assert [[len(g.column("text")[0].as_py()) for g in run] for run in found] == runs


def test_no_groups_are_no_run() -> None:
    assert list(together(iter([]), 1000)) == []
