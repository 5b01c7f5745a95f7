from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.tasks.permutation import permute


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations from what uniform counts would give."""
    expected = counts.sum() / len(counts)
    return float((((counts - expected) ** 2).sum() / expected - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1)))


@given(st.integers(1, 3000), st.lists(st.integers(0, 2**32), min_size=1, max_size=4))
def test_every_place_is_taken_once(size: int, key: list[int]) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", [1_000_003, 2**20, 2**20 + 1, 999**2])
def test_every_place_of_a_large_order_is_taken_once(size: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, (1, 2))), np.arange(size))


@given(st.integers(1, 500), st.data())
def test_a_part_can_be_computed_alone(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size))
    last = data.draw(st.integers(first, size))
    assert (
        permute(np.arange(first, last), size, (3,)).tolist()
        == permute(np.arange(size), size, (3,))[first:last].tolist()
    )


def test_an_order_of_a_hundred_billion() -> None:
    size = 10**11
    found = permute(np.arange(size - 100_000, size), size, (1,))
    assert found.min() >= 0 and found.max() < size
    assert len(np.unique(found)) == 100_000
    assert abs(chi_square(np.bincount(found * 100 // size, minlength=100))) < 4


@pytest.mark.parametrize("size", [2, 3, 4, 7, 50, 97])
def test_over_keys_a_place_goes_anywhere_alike(size: int) -> None:
    first = [permute(np.array([0, size - 1]), size, (key,)) for key in range(4000)]
    for ends in np.array(first).T:
        assert abs(chi_square(np.bincount(ends, minlength=size))) < 4


def test_all_orders_of_four_come_alike() -> None:
    ranks = [permute(np.arange(4), 4, (key,)) @ np.array([64, 16, 4, 1]) for key in range(6000)]
    counts = np.unique(ranks, return_counts=True)[1]
    assert len(counts) == 24
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("size", [1000, 65_536, 100_000])
@pytest.mark.parametrize("apart", [1, 2, 10, 256])
def test_how_far_neighbours_come_apart_is_random(size: int, apart: int) -> None:
    order = permute(np.arange(size), size, (5,))
    distances = (order[apart:] - order[:-apart]) % size
    assert abs(chi_square(np.bincount(distances * 50 // size, minlength=50))) < 4


def test_another_key_is_another_order() -> None:
    orders = [permute(np.arange(1000), 1000, key) for key in ((1, 2), (2, 1), (1, 3))]
    same = [(a == b).sum() for a, b in zip(orders, orders[1:] + orders[:1])]
    assert max(same) < 10
