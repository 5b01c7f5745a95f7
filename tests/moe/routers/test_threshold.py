"""Selection by threshold: the shortest prefix of the sorted probabilities that reaches it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_mt.moe import Threshold, TopK


def probabilities(seed: int, tokens: int, experts: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return (torch.randn(tokens, experts) * 2).softmax(dim=1)


def chosen(probs: torch.Tensor, threshold: float, may_sync: bool = True, most: int | None = None) -> list[set[int]]:
    choices = Threshold(threshold, most)(probs, may_sync)
    experts = probs.size(1)
    return [{e for e in row if e < experts} for row in choices.experts_TK.tolist()]


@given(seed=st.integers(0, 999), tokens=st.integers(1, 9), experts=st.integers(1, 9), threshold=st.floats(0, 0.999))
@settings(max_examples=60, deadline=None)
def test_prefix_is_the_shortest_that_reaches_the_threshold(
    seed: int, tokens: int, experts: int, threshold: float
) -> None:
    probs = probabilities(seed, tokens, experts)
    for p, found in zip(probs.double(), chosen(probs, threshold)):
        ranked = sorted(range(experts), key=lambda e: (-p[e].item(), e))
        want, total = [ranked[0]], p[ranked[0]].item()
        for e in ranked[1:]:
            if total >= threshold:
                break
            want.append(e)
            total += p[e].item()
        assert found == set(want)


def test_threshold_0_is_top_1_and_threshold_1_is_all() -> None:
    probs = probabilities(0, 30, 6)
    assert Threshold(0.0)(probs, True).experts_TK.equal(TopK(1)(probs, True).experts_TK)
    assert chosen(probs, 1.0) == [set(range(6))] * 30


def test_threshold_1_chooses_all_of_many_experts_whatever_their_sum_rounds_to() -> None:
    probs = probabilities(1, 200, 64)
    assert all(len(found) == 64 for found in chosen(probs, 1.0))


def test_chosen_experts_grow_with_the_threshold() -> None:
    probs = probabilities(2, 40, 8)
    sets = [chosen(probs, t) for t in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert all(small <= large for less, more in pairwise(sets) for small, large in zip(less, more))
    assert len({len(found) for found in sets[2]}) > 1  # tokens differ


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_choices_are_the_same_where_the_host_may_not_wait(threshold: float) -> None:
    probs = probabilities(3, 20, 5)
    assert chosen(probs, threshold, may_sync=False) == chosen(probs, threshold)


def test_at_most_so_many_experts_are_chosen() -> None:
    probs = torch.full((4, 6), 1 / 6)
    assert [len(found) for found in chosen(probs, 0.9, most=3)] == [3] * 4


@pytest.mark.parametrize(("threshold", "want"), [(0.0, 1), (0.5, 4), (0.9, 8), (1.0, 8), (0.25, 2)])
def test_expected_choices_are_those_of_uniform_probabilities(threshold: float, want: int) -> None:
    probs = torch.full((1, 8), 1 / 8)
    assert Threshold(threshold).expected_choices(8) == want == len(chosen(probs, threshold)[0])


@pytest.mark.parametrize(
    ("arguments", "words"), [((1.1,), "between 0 and 1"), ((-0.1,), "between 0"), ((0.5, 0), "at least 1")]
)
def test_thresholds_that_make_no_sense_are_named(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Threshold(*arguments)
