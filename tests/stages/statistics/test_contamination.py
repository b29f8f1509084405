import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.statistics.contamination import WORST, Overlap, overlap

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=6)


def words(seed: int, count: int) -> str:
    """Return made-up words that no other seed gives."""
    draw = random.Random(seed)
    return " ".join(f"{draw.randrange(10**6)}x{seed}" for _ in range(count))


@given(train=TEXTS, val=TEXTS, n=st.integers(1, 4))
@settings(deadline=None)  # the first call makes the tables
def test_the_overlap_equals_a_naive_count(train: list[str], val: list[str], n: int) -> None:
    def grams(text: str) -> list[tuple[str, ...]]:
        split = text.split()
        return [tuple(split[i : i + n]) for i in range(len(split) - n + 1)]

    known = {gram for text in train for gram in grams(text)}
    counts = [(len(grams(text)), sum(gram in known for gram in grams(text))) for text in val]
    result = overlap(train, val, n)
    assert result.ngrams == sum(total for total, _ in counts)
    assert result.shared == sum(shared for _, shared in counts)
    assert result.share == pytest.approx(result.shared / max(1, result.ngrams))
    naive = [(i, shared / total) for i, (total, shared) in enumerate(counts) if shared]
    assert result.worst == tuple(sorted(naive, key=lambda pair: (-pair[1], pair[0])))


def test_a_quotation_is_found_in_the_document_that_holds_it() -> None:
    quotation = words(0, 30)
    val = [words(1, 100), f"{words(2, 50)} {quotation} {words(3, 50)}", words(4, 100)]
    result = overlap([words(5, 100), f'He said: "{quotation.upper()}"!'], val, n=13)
    assert result == Overlap(88 + 118 + 88, 18, 18 / 294, ((1, 18 / 118),))


def test_thirteen_words_are_contamination_and_twelve_are_not() -> None:
    assert overlap([words(0, 12)], [words(0, 12) + " and on"], n=13).shared == 0
    assert overlap([words(0, 13)], [words(0, 13) + " and on"], n=13).shared == 1


def test_an_ngram_does_not_run_from_one_document_into_the_next() -> None:
    document = words(0, 20).split()
    halves = [" ".join(document[:10]), " ".join(document[10:])]
    assert overlap(halves, [" ".join(document)], n=13) == Overlap(8, 0, 0.0, ())


@pytest.mark.parametrize("val", [[], [""], ["too short to hold thirteen words"]])
def test_without_ngrams_the_share_is_zero(val: list[str]) -> None:
    assert overlap([words(0, 50)], val, n=13) == Overlap(0, 0, 0.0, ())


def test_the_worst_documents_come_first() -> None:
    val = [f"{words(0, 20 + n)} {words(n + 1, 20)}" for n in range(2 * WORST)]
    worst = overlap([words(0, 60)], val, n=13).worst
    assert [index for index, _ in worst] == list(range(2 * WORST - 1, WORST - 1, -1))


def test_memory_does_not_grow_with_the_training_text() -> None:
    val, block = [words(0, 1_000)], words(1, 20_000)

    def train(count: int) -> Iterator[str]:
        for _ in range(count):
            yield f"{block} {block}"

    def peak(count: int) -> int:
        tracemalloc.start()
        overlap(train(count), val, n=13)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1)  # the first call makes the tables
    assert peak(10) < 1.2 * peak(3)
