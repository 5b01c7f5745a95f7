"""Which experts become one: the clustering, its baselines, and the shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.pruning.arguments import MERGES
from smoe_mt.pruning.groups import most_used, partition, random_partition, shares


def similarities(experts: int, seed: int) -> Tensor:
    """Symmetric, all different."""
    values = torch.rand(experts, experts, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    values = (values + values.t()) / 2
    return values.fill_diagonal_(1.0)


def test_groups_that_were_planted_are_found() -> None:
    wanted = ((0, 3, 5), (1, 4), (2,))
    similarity = 0.1 * similarities(6, seed=0)
    for group in wanted:
        for i in group:
            for j in group:
                similarity[i, j] += 0.8
    assert partition(similarity, 3) == wanted


def test_linkage_is_the_mean_over_all_members() -> None:
    """Experts 0 and 1 are less like expert 2 on average (0.45) than expert 3 is (0.5), though one of them is more (0.8)."""
    similarity = torch.eye(4, dtype=torch.double)
    for i, j, value in ((0, 1, 0.9), (0, 2, 0.8), (1, 2, 0.1), (2, 3, 0.5), (0, 3, 0.0), (1, 3, 0.0)):
        similarity[i, j] = similarity[j, i] = value
    assert partition(similarity, 2) == ((0, 1), (2, 3))


def test_the_ends_are_no_merging_and_one_group() -> None:
    similarity = similarities(5, seed=1)
    assert partition(similarity, 5) == ((0,), (1,), (2,), (3,), (4,))
    assert partition(similarity, 1) == ((0, 1, 2, 3, 4),)


def test_equal_pairs_are_taken_in_the_order_of_their_numbers() -> None:
    assert partition(torch.ones(4, 4), 3) == ((0, 1), (2,), (3,))


@given(experts=st.integers(1, 8), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=50, deadline=None)
def test_renumbering_experts_renumbers_the_groups(experts: int, seed: int, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, experts))
    order = data.draw(st.permutations(range(experts)))  # new number i is old number order[i]
    similarity = similarities(experts, seed)
    groups = {frozenset(group) for group in partition(similarity, parts)}
    renumbered = partition(similarity[list(order)][:, list(order)], parts)
    assert {frozenset(order[e] for e in group) for group in renumbered} == groups


@given(experts=st.integers(1, 9), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=50, deadline=None)
def test_random_groups_have_every_expert_once_and_sizes_that_differ_by_one_at_most(
    experts: int, seed: int, data: st.DataObject
) -> None:
    parts = data.draw(st.integers(1, experts))
    groups = random_partition(experts, parts, torch.Generator().manual_seed(seed))
    assert sorted(e for group in groups for e in group) == list(range(experts)) and len(groups) == parts
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert groups == random_partition(experts, parts, torch.Generator().manual_seed(seed))


def test_the_most_used_remain_of_equal_ones_the_first() -> None:
    assert most_used(torch.tensor([5, 7, 5, 0]), 2) == ((0,), (1,))
    assert most_used(torch.tensor([1, 7, 5, 9]), 3) == ((1,), (2,), (3,))


@pytest.mark.parametrize("merge", MERGES)
def test_shares_of_a_group_sum_to_one_and_others_have_none(merge: str) -> None:
    alpha = shares(((0, 2), (1,)), torch.tensor([1, 0, 3, 9]), merge)
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(2, dtype=torch.double))
    assert not alpha[0, [1, 3]].any() and not alpha[1, [0, 2, 3]].any()


def test_shares_are_even_by_use_or_the_most_used_ones() -> None:
    groups, counts = ((0, 2), (1,)), torch.tensor([1, 0, 3])
    assert shares(groups, counts, "mean").tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert shares(groups, counts, "weighted").tolist() == [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]
    assert shares(groups, counts, "keep").tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_a_group_that_nobody_used_is_shared_evenly_or_its_first_is_kept() -> None:
    groups, counts = ((0, 1),), torch.zeros(2)
    assert shares(groups, counts, "weighted").tolist() == [[0.5, 0.5]]
    assert shares(groups, counts, "keep").tolist() == [[1.0, 0.0]]
