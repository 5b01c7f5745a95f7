from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.tasks.sampling import draw_lines, draws_per_direction, shares, window_bounds

sizes = st.lists(st.integers(1, 5000), min_size=1, max_size=8)
temperatures = st.floats(0.2, 20.0)


@given(sizes, temperatures, st.integers(0, 100_000))
def test_draws_sum_to_the_epoch_and_are_within_one_of_their_share(n: list[int], temperature: float, total: int) -> None:
    counts = draws_per_direction(n, temperature, total)
    weights = np.array(n, dtype=np.float64) ** (1 / temperature)
    assert counts.sum() == total
    assert (np.abs(counts - total * weights / weights.sum()) < 1 + 1e-6).all()


def test_temperature_one_draws_every_sentence_once() -> None:
    assert draws_per_direction([7, 30, 1], 1.0, 38).tolist() == [7, 30, 1]


def test_a_high_temperature_is_nearly_uniform() -> None:
    assert np.allclose(shares([10, 1000], 1e6), 0.5, atol=1e-4)


def test_temperature_five_by_hand() -> None:
    # 1^(1/5) = 1, 32^(1/5) = 2, 243^(1/5) = 3
    assert draws_per_direction([1, 32, 243], 5.0, 600).tolist() == [100, 200, 300]


def test_a_direction_without_text_is_never_drawn() -> None:
    assert draws_per_direction([0, 3, 3], 5.0, 7).tolist() == [0, 4, 3]


@given(st.integers(1, 60), st.integers(1, 200), st.integers(0, 5), st.integers(1, 9))
def test_nothing_is_drawn_twice_before_all_is_drawn_once(size: int, count: int, seed: int, epoch: int) -> None:
    times = np.bincount(draw_lines("aa-en", size, count, seed, epoch), minlength=size)
    assert times.sum() == count
    assert times.max() - times.min() <= 1


@given(st.integers(1, 60), st.integers(1, 200), st.integers(1, 6))
def test_nor_across_epochs(size: int, count: int, epochs: int) -> None:
    drawn = np.concatenate([draw_lines("aa-en", size, count, 3, epoch) for epoch in range(1, epochs + 1)])
    times = np.bincount(drawn, minlength=size)
    assert times.max() - times.min() <= 1


@pytest.mark.parametrize(("seed", "direction"), [(2, "aa-en"), (1, "en-aa")])
def test_seed_and_direction_decide_what_is_drawn_first(seed: int, direction: str) -> None:
    first = draw_lines("aa-en", 1000, 100, 1, 1)
    assert set(first) != set(draw_lines(direction, 1000, 100, seed, 1))


def test_an_epoch_can_be_computed_again() -> None:
    assert np.array_equal(draw_lines("aa-en", 1000, 300, 1, 7), draw_lines("aa-en", 1000, 300, 1, 7))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.integers(1, 20), st.integers(0, 3), st.integers(1, 4))
def test_windows_share_out_an_epoch(counts: list[int], windows: int, seed: int, epoch: int) -> None:
    bounds = [window_bounds(np.array(counts), windows, window, seed, epoch) for window in range(windows)]
    assert (bounds[0][0] == 0).all() and (bounds[-1][1] == counts).all()
    for (_, last), (first, _) in itertools.pairwise(bounds):
        assert (last == first).all()
    for first, last in bounds:
        assert (np.abs(last - first - np.array(counts) / windows) < 1).all()


def test_a_part_of_an_epoch_can_be_computed_alone() -> None:
    whole = draw_lines("aa-en", 1000, 300, 1, 7)
    assert np.array_equal(draw_lines("aa-en", 1000, 300, 1, 7, 120, 180), whole[120:180])


def test_what_comes_first_in_an_epoch_is_redrawn() -> None:
    """Also where each epoch has the whole text."""
    first = [set(draw_lines("aa-en", 1000, 1000, 1, epoch, 0, 100).tolist()) for epoch in (1, 2)]
    assert len(first[0] & first[1]) < 30  # 10 by chance
