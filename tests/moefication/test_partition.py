"""Groups of equal size with a large affinity within: each unit once, the best ones, and those that were planted."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_mt.moefication import partition


def group_of(rows: np.ndarray) -> np.ndarray:
    """int64 [F]: the group of each unit."""
    found = np.empty(rows.size, dtype=np.int64)
    for group, units in enumerate(rows):
        found[units] = group
    return found


def symmetric(seed: int, units: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(units, units))
    return drawn + drawn.T


@given(seed=st.integers(0, 10_000), groups=st.integers(1, 5), size=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_every_unit_is_in_one_group_and_groups_are_equal(seed: int, groups: int, size: int) -> None:
    affinity = symmetric(seed, groups * size)
    for rows in (
        partition.balanced_groups(affinity, groups, seed),
        partition.random_groups(groups * size, groups, seed),
    ):
        assert rows.shape == (groups, size)
        assert sorted(rows.flatten().tolist()) == list(range(groups * size))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_exchanges_never_lose_and_end_where_none_gains(seed: int) -> None:
    affinity = symmetric(seed, 12)
    np.fill_diagonal(affinity, 0.0)
    start = group_of(partition.random_groups(12, 3, seed))
    end = partition.exchanged(affinity, start, 3)
    reached = partition.within(affinity, end)
    assert reached >= partition.within(affinity, start)
    for u in range(12):
        for v in range(u):
            other = end.copy()
            other[[u, v]] = other[[v, u]]
            assert partition.within(affinity, other) <= reached + 1e-9


def test_small_problems_are_solved_as_trying_all_solves_them() -> None:
    found = 0
    for seed in range(10):
        affinity = symmetric(seed, 6)
        best = max(
            partition.within(affinity, group_of(np.array(order).reshape(2, 3))) for order in permutations(range(6))
        )
        got = partition.within(affinity, group_of(partition.balanced_groups(affinity, 2, seed)))
        assert got <= best + 1e-9
        found += got > best - 1e-9
    assert found >= 9


@pytest.mark.parametrize("seed", range(4))
def test_planted_blocks_are_found_by_similar_weights(seed: int) -> None:
    """Units in a random order, those of a block around one direction."""
    rng = torch.Generator().manual_seed(seed)
    block = torch.arange(8).repeat_interleave(6)[torch.randperm(48, generator=rng)]
    lengths = torch.rand(48, 1, generator=rng) * 5 + 0.1
    noise = 0.3 * torch.randn(48, 16, generator=rng)
    w_in = lengths * (torch.randn(8, 16, generator=rng)[block] + noise)
    rows = partition.balanced_groups(partition.cosines(w_in), 8, seed)
    assert all(len(block[torch.from_numpy(units)].unique()) == 1 for units in rows)


@pytest.mark.parametrize("seed", range(4))
def test_planted_blocks_are_found_by_what_fires_together(seed: int) -> None:
    """The units of a block read the same place of x, with weights of their own."""
    rng = torch.Generator().manual_seed(seed)
    block = torch.arange(4).repeat_interleave(5)[torch.randperm(20, generator=rng)]
    w_in = torch.zeros(20, 4).scatter_(1, block[:, None], torch.rand(20, 1, generator=rng) + 0.2)
    x = torch.eye(4).repeat(10, 1) + 0.1 * torch.randn(40, 4, generator=rng)
    rows = partition.balanced_groups(partition.co_activation(x, w_in, torch.zeros(20)), 4, seed)
    assert all(len(block[torch.from_numpy(units)].unique()) == 1 for units in rows)


def test_co_activation_is_the_sum_of_products_where_both_fire() -> None:
    rng = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=rng) for shape in ((30, 3), (5, 3), (5,)))
    h = (x.double() @ w.double().t() + b.double()).numpy()
    want = [[sum(row[u] * row[v] for row in h if row[u] > 0 and row[v] > 0) for v in range(5)] for u in range(5)]
    np.testing.assert_allclose(partition.co_activation(x, w, b), want, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_groups_and_dead_units_are_no_failure() -> None:
    w_in = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    w_in[3:9] = 0.0
    affinity = partition.cosines(w_in)
    assert np.isfinite(affinity).all()
    assert np.array_equal(partition.balanced_groups(affinity, 4, 7), partition.balanced_groups(affinity, 4, 7))
