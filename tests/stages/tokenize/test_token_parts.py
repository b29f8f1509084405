"""Groups of documents are batched as large as an engine wants, in order, each once."""

import pyarrow as pa
import pytest

from stages.tokenize.token_parts import batch_groups


def group(n_bytes: int) -> pa.RecordBatch:
    """Return a group of one document of n_bytes."""
    return pa.record_batch({"text": pa.array(["x" * n_bytes], pa.large_string())})


@pytest.mark.parametrize(
    ("n_bytes", "batches"),
    [
        (0, [[900], [50], [60], [70], [2000], [1]]),  # each by itself
        (1000, [[900, 50, 60], [70, 2000], [1]]),
        (1 << 20, [[900, 50, 60, 70, 2000, 1]]),
    ],
)
def test_groups_are_batched_until_they_are_large_enough(
    n_bytes: int, batches: list[list[int]]
) -> None:
    groups = [group(size) for batch in batches for size in batch]
    actual = list(batch_groups(iter(groups), n_bytes))
    assert [[len(g.column("text")[0].as_py()) for g in batch] for batch in actual] == batches


def test_no_groups_give_no_batch() -> None:
    assert list(batch_groups(iter([]), 1000)) == []
