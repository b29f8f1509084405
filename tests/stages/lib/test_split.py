import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stages.lib.split import SplitParams, draws, split_documents
from stages.lib.text_hash import Hashes, column_hashes, hash_column, hash_rows, text_hash

TEXTS = st.lists(st.binary(max_size=3).map(text_hash), min_size=2, max_size=30).filter(
    lambda texts: len(set(texts)) > 1
)
PARAMS = st.builds(
    SplitParams, val_fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**63 - 1)
)
MANY = hash_rows(text_hash(str(n).encode()) for n in range(5_000))


def sides_of(texts: list[bytes], params: SplitParams) -> list[bool]:
    """Return the split of a list of text hashes."""
    sides: list[bool] = split_documents(hash_rows(texts), params).tolist()
    return sides


@given(texts=TEXTS, params=PARAMS)
def test_duplicates_are_in_one_split(texts: list[bytes], params: SplitParams) -> None:
    sides: dict[bytes, set[bool]] = {}
    for text, is_val in zip(texts, sides_of(texts, params), strict=True):
        sides.setdefault(text, set()).add(is_val)
    assert all(len(side) == 1 for side in sides.values())


@given(texts=TEXTS, params=PARAMS)
def test_neither_split_is_empty(texts: list[bytes], params: SplitParams) -> None:
    assert set(sides_of(texts, params)) == {True, False}


@given(texts=TEXTS, more=TEXTS, params=PARAMS)
def test_adding_documents_moves_no_other(
    texts: list[bytes], more: list[bytes], params: SplitParams
) -> None:
    by_chance = draws(hash_rows(texts), params.seed) <= params.val_fraction
    assume(len(set(by_chance.tolist())) == 2)  # else a text moved so that neither split is empty
    assert sides_of([*texts, *more], params)[: len(texts)] == sides_of(texts, params)


@given(texts=TEXTS, params=PARAMS, random=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(texts: list[bytes], params: SplitParams, random) -> None:
    sides = dict(zip(texts, sides_of(texts, params), strict=True))
    shuffled = random.sample(texts, len(texts))
    assert sides_of(shuffled, params) == [sides[text] for text in shuffled]


@given(texts=st.lists(st.binary(min_size=16, max_size=16)), seed=st.integers(0, 2**63 - 1))
def test_a_draw_is_seven_bytes_of_the_hash_of_seed_and_text(texts: list[bytes], seed: int) -> None:
    digests = [hashlib.sha256(seed.to_bytes(8, "big") + text).digest() for text in texts]
    expected = [int.from_bytes(digest[:7], "big") / 2**56 for digest in digests]
    assert draws(hash_rows(texts), seed).tolist() == expected


def test_draws_for_another_purpose_are_independent() -> None:
    pairs = np.corrcoef(draws(MANY, 1), draws(MANY, 1, b"other"))
    assert abs(pairs[0, 1]) < 4 / len(MANY) ** 0.5


def test_hashes_are_read_from_any_slice_of_a_column() -> None:
    column = pa.chunked_array([hash_column(rows.tobytes()) for rows in (MANY[:30], MANY[30:100])])
    for first, last in [(0, 100), (17, 53), (40, 40)]:
        expected = MANY[first:last]
        assert np.array_equal(column_hashes(column.slice(first, last - first)), expected)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_about_the_given_fraction_is_held_out(fraction: float) -> None:
    held_out = split_documents(MANY, SplitParams(val_fraction=fraction, seed=1)).sum()
    spread = (len(MANY) * fraction * (1 - fraction)) ** 0.5  # of a binomial
    assert abs(held_out - len(MANY) * fraction) < 4 * spread


def test_a_larger_fraction_only_adds() -> None:
    sides = [
        split_documents(MANY, SplitParams(val_fraction=fraction, seed=1))
        for fraction in (0.1, 0.2, 0.5)
    ]
    for small, large in pairwise(sides):
        assert large[small].all()
        assert small.sum() < large.sum()


def test_another_seed_holds_out_others() -> None:
    first, second = (split_documents(MANY, SplitParams(val_fraction=0.5, seed=s)) for s in (1, 2))
    assert 0.45 < (first == second).mean() < 0.55


def test_the_split_never_changes() -> None:
    """Golden: a different split of the same corpus would change every published figure."""
    held_out = split_documents(MANY[:20], SplitParams(val_fraction=0.3, seed=3))
    assert np.flatnonzero(held_out).tolist() == [13, 14]


@pytest.mark.parametrize("hashes", [MANY[:1], MANY[[7, 7, 7]]])
def test_a_corpus_of_one_text_is_refused_with_advice(hashes: Hashes) -> None:
    with pytest.raises(ValueError, match="the corpus is one document") as caught:
        split_documents(hashes, SplitParams(val_fraction=0.5, seed=1))
    assert "corpus.separator" in str(caught.value)
