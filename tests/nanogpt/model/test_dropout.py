"""Masks that depend on the window and the place alone, and look random in every direction."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogpt.data.order import WindowOrder
from nanogpt.model.dropout import dropout, place_keys, random_numbers

B, N = 400, 1 << 11
ORDER = WindowOrder(n_tokens=10_000, block_size=16, seed=7)

# Of the first windows of seed 7; of their first two places; at their first place.
WINDOW_KEYS = [4764729254052721200, -6981545856189056346, -630704371959663812]
PLACE_KEYS = [
    [[946657964, 433645346], [191305707, 1494860669]],
    [[733384190, 482067494], [508874554, 1214855621]],
]
NUMBERS = [[3936, 22932, 3342, 28207, 17986], [8677, 27392, 24587, 9552, 7406]]


def keys(windows: range, n_places: int = 1, seed: int = 7) -> Tensor:
    """The key (P, B, 2) of each place in each window."""
    order = WindowOrder(n_tokens=10_000, block_size=16, seed=seed)
    return place_keys(torch.from_numpy(order.dropout_keys(np.asarray(windows))), n_places)


def standardised(key: Tensor, p: float) -> Tensor:
    """Masks (B, N) as numbers of mean 0 and variance 1."""
    kept = (random_numbers(key, N) >= round(p * 2**15)).float()
    return (kept - (1 - p)) / math.sqrt(p * (1 - p))


def z_score(x: Tensor) -> float:
    """The sum of independent numbers of mean 0 and variance 1, in its own standard deviations."""
    return abs(x.sum().item()) / math.sqrt(x.numel())


def test_masks_are_what_they_always_were() -> None:
    """Checkpoints count on it. The values are of a version in Python's integers."""
    assert ORDER.dropout_keys(np.array([0, 1, 10**12])).tolist() == WINDOW_KEYS
    assert keys(range(2), 2).tolist() == PLACE_KEYS
    assert random_numbers(keys(range(2))[0], 5).tolist() == NUMBERS


@pytest.mark.parametrize("p", [0.125, 0.5, 0.875])
def test_masks_look_random_in_every_direction(p: float) -> None:
    """Sums that are normal for independent numbers; 4.5 deviations are one chance in 10^5."""
    places = [standardised(key, p) for key in keys(range(B), n_places=3)]
    other_seed = standardised(keys(range(B), seed=8)[0], p)
    first = places[0]
    assert z_score(first) < 4.5
    for step in (2, 3, 128):
        assert all(z_score(first[:, i::step]) < 4.5 for i in range(step))
    # The spread of sums over one direction is that of independent numbers, too.
    for sums, n in ((first.sum(1) / math.sqrt(N), B), (first.sum(0) / math.sqrt(B), N)):
        assert sums.square().mean().item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))
        assert sums.abs().max() < 5.5
    unlike = {
        "places": (first, places[1]),
        "more places": (places[1], places[2]),
        "seeds": (first, other_seed),
        "windows": (first[1:], first[:-1]),
        "far windows": (first[B // 2 :], first[: B // 2]),
        **{f"positions {d} apart": (first[:, d:], first[:, :-d]) for d in range(1, 20)},
        **{f"rows {d} apart": (first[:, d:], first[:, :-d]) for d in (64, 96, 128, 512)},
    }
    for name, (some, others) in unlike.items():
        product = some * others
        assert z_score(product) < 4.5, name
        by_window = product.sum(1).square().mean().item() / product.size(1)
        assert by_window == pytest.approx(1, abs=4.5 * math.sqrt(2 / B)), (
            name
        )  # no window repeats itself


def test_no_two_windows_or_places_share_a_key() -> None:
    found = keys(range(4_000), n_places=13).flatten(0, 1)
    assert len(found.unique(dim=0)) == len(found)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.9, 0.99999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_mean_stays_what_it_is(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(B, 25, 25, dtype=dtype)
    y = dropout(x, p, keys(range(B))[0])
    assert y.dtype == dtype
    assert len(y.unique()) == 2
    error = 4.5 * math.sqrt(p / (1 - p) / x.numel()) + torch.finfo(dtype).eps
    assert y.double().mean().item() == pytest.approx(1, abs=error)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (5, 3), (2, 3, 3)])
def test_a_window_has_its_mask_in_any_company(shape: tuple[int, ...]) -> None:
    """Whatever the number of windows, and whether a window has an even number of elements."""
    key = keys(range(6))[0]
    x = torch.rand(6, *shape) + 1
    whole = dropout(x, 0.5, key)
    assert (whole == 0).any() and (whole != 0).any()
    for first, last in ((0, 1), (2, 6), (5, 6)):
        assert torch.equal(dropout(x[first:last], 0.5, key[first:last]), whole[first:last])


def test_gradients_pass_where_numbers_are_kept() -> None:
    x = torch.ones(4, 9, requires_grad=True)
    y = dropout(x, 0.25, keys(range(4))[0])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_without_a_key_nothing_is_dropped() -> None:
    x = torch.ones(2, 3)
    assert dropout(x, 0.5, None) is x
