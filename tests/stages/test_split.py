from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stages.split import SplitParams, draw, split_documents, text_hash

HASHES = st.lists(st.binary(max_size=3).map(text_hash), min_size=2, max_size=30)
PARAMS = st.builds(
    SplitParams, val_fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**63 - 1)
)
MANY = [text_hash(str(n).encode()) for n in range(5_000)]


@given(hashes=HASHES, params=PARAMS)
def test_duplicates_are_on_one_side(hashes: list[bytes], params: SplitParams) -> None:
    assume(len(set(hashes)) > 1)
    sides: dict[bytes, set[bool]] = {}
    for text, is_val in zip(hashes, split_documents(hashes, params), strict=True):
        sides.setdefault(text, set()).add(is_val)
    assert all(len(side) == 1 for side in sides.values())


@given(hashes=HASHES, params=PARAMS)
def test_neither_side_is_empty(hashes: list[bytes], params: SplitParams) -> None:
    assume(len(set(hashes)) > 1)
    assert set(split_documents(hashes, params)) == {True, False}


@given(hashes=HASHES, more=HASHES, params=PARAMS)
def test_more_documents_move_no_other(
    hashes: list[bytes], more: list[bytes], params: SplitParams
) -> None:
    by_chance = {draw(text, params.seed) <= params.val_fraction for text in hashes}
    assume(by_chance == {True, False})  # else a text had to change sides to fill the empty one
    before = split_documents(hashes, params)
    assert split_documents([*hashes, *more], params)[: len(hashes)] == before


@given(hashes=HASHES, params=PARAMS, random=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(hashes: list[bytes], params: SplitParams, random) -> None:
    assume(len(set(hashes)) > 1)
    sides = dict(zip(hashes, split_documents(hashes, params), strict=True))
    shuffled = random.sample(hashes, len(hashes))
    assert split_documents(shuffled, params) == [sides[text] for text in shuffled]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_about_the_fraction_asked_for_is_held_back(fraction: float) -> None:
    held_back = sum(split_documents(MANY, SplitParams(val_fraction=fraction, seed=1)))
    spread = (len(MANY) * fraction * (1 - fraction)) ** 0.5  # of a binomial
    assert abs(held_back - len(MANY) * fraction) < 4 * spread


def test_a_larger_fraction_only_adds() -> None:
    sides = [
        split_documents(MANY, SplitParams(val_fraction=fraction, seed=1))
        for fraction in (0.1, 0.2, 0.5)
    ]
    for small, large in pairwise(sides):
        assert all(b for a, b in zip(small, large, strict=True) if a)
        assert sum(small) < sum(large)


def test_another_seed_holds_back_others() -> None:
    first, second = (split_documents(MANY, SplitParams(val_fraction=0.5, seed=s)) for s in (1, 2))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert 0.45 < same / len(MANY) < 0.55


def test_the_split_is_the_one_it_was() -> None:
    """Golden: another split of the same corpus would make every published figure another."""
    held_back = split_documents(MANY[:20], SplitParams(val_fraction=0.3, seed=3))
    assert [n for n, is_val in enumerate(held_back) if is_val] == [13, 14]


@pytest.mark.parametrize("count", [1, 3])
def test_a_corpus_of_one_text_is_refused_with_the_way_out(count: int) -> None:
    with pytest.raises(ValueError, match="the corpus is one document") as caught:
        split_documents([text_hash(b"one")] * count, SplitParams(val_fraction=0.5, seed=1))
    assert "corpus.separator" in str(caught.value)
