import pytest

from stages.lib.reasons import in_words


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ({}, "nothing"),
        ({"duplicate": 1}, "1 duplicate"),
        ({"duplicate": 1200}, "1,200 duplicates"),
        ({"too short": 3, "near duplicate": 2}, "3 too short and 2 near duplicates"),
        (
            {"too long": 1, "filter english": 4, "duplicate": 2},
            "1 too long, 4 by filter english and 2 duplicates",
        ),
    ],
)
def test_counts_by_reason_are_put_into_words(dropped: dict[str, int], words: str) -> None:
    assert in_words(dropped) == words
