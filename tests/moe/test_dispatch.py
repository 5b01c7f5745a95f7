"""Dispatch and combine: gathers that undo each other."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.moe.dispatch import of_slots, of_tokens, plan_dispatch, sum_rows

CHOICES = torch.tensor([[0, 2], [2, 0], [2, 1], [0, 2], [2, 0]])


def test_rows_are_sorted_by_expert_first_choices_first() -> None:
    plan = plan_dispatch(CHOICES, 4, capacity=None)
    assert plan.token_S.tolist() == [0, 3, 1, 4, 2, 1, 2, 4, 0, 3]
    assert plan.asked_E.tolist() == [4, 1, 5, 0] == plan.served_E.tolist()
    assert plan.kept_TK is None


def test_slots_over_the_capacity_are_dropped_in_order() -> None:
    plan = plan_dispatch(CHOICES, 4, capacity=2)
    assert plan.served_E.tolist() == [2, 1, 2, 0]
    assert plan.token_S.tolist() == [0, 3, 2, 1, 2]
    assert plan.kept_TK is not None
    assert plan.kept_TK.tolist() == [[True, False], [True, False], [True, True], [True, False], [False, False]]


@pytest.mark.parametrize("capacity", [None, 1, 2, 3])
def test_rows_come_back_to_their_tokens(capacity: int | None) -> None:
    plan = plan_dispatch(CHOICES, 4, capacity)
    x = torch.randn(5, 3)
    kept = torch.ones(5, 2, dtype=torch.bool) if plan.kept_TK is None else plan.kept_TK
    torch.testing.assert_close(sum_rows(x[plan.token_S], plan), x * kept.sum(dim=1, keepdim=True))
    weights = torch.rand(5, 2)
    torch.testing.assert_close(sum_rows(x[plan.token_S], plan, weights), x * (weights * kept).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("capacity", [None, 1, 2, 3])
def test_slots_and_tokens_are_two_orders_of_the_same(capacity: int | None) -> None:
    plan = plan_dispatch(CHOICES, 4, capacity)
    values = torch.rand(5, 2)
    kept = torch.ones(5, 2, dtype=torch.bool) if plan.kept_TK is None else plan.kept_TK
    assert of_tokens(of_slots(values, plan), plan).equal(values * kept)


@pytest.mark.parametrize("capacity", [None, 0, 1, 2, 9])
@pytest.mark.parametrize("seed", range(5))
def test_a_plan_that_reads_nothing_back_is_the_same_plan(capacity: int | None, seed: int) -> None:
    """For the tokens that are here, and with undefined rows behind those that are served."""
    torch.manual_seed(seed)
    choices = torch.rand(12, 4).argsort(dim=1)[:, :2]
    here = torch.rand(12) < 0.6
    want = plan_dispatch(choices[here], 4, capacity)
    got = plan_dispatch(choices, 4, None if capacity is None else torch.tensor(capacity), here)
    served = int(want.served_E.sum())
    assert got.served_E.equal(want.served_E) and got.asked_E.equal(want.asked_E)
    assert here.nonzero().squeeze(1)[want.token_S].equal(got.token_S[:served])
    assert got.kept_TK is not None and not got.kept_TK[~here].any()
    kept = torch.ones_like(choices[here], dtype=torch.bool) if want.kept_TK is None else want.kept_TK
    assert got.kept_TK[here].equal(kept)
    assert got.row_TK[here][kept].equal(want.row_TK[kept])
    assert got.slot_S.sort().values.equal(torch.arange(24))


def test_capacity_0_serves_nobody() -> None:
    plan = plan_dispatch(CHOICES, 4, capacity=0)
    assert plan.served_E.tolist() == [0] * 4 and plan.token_S.numel() == 0
    assert sum_rows(torch.empty(0, 3), plan).equal(torch.zeros(5, 3))
    assert of_tokens(torch.empty(0), plan).equal(torch.zeros(5, 2))


def test_memory_is_linear_in_tokens() -> None:
    """Everything that a plan holds has at most T x K elements."""
    choices = torch.randint(0, 16, (4096, 2))
    plan = plan_dispatch(choices, 16, capacity=600)
    assert all(t.numel() <= 2 * 4096 for t in vars(plan).values() if t is not None)


NO_CHOICE = torch.tensor([[0, 2], [2, 3], [2, 1], [0, 3], [2, 0]])  # 3 experts: 3 is no choice


@pytest.mark.parametrize("capacity", [None, 1, 2])
@pytest.mark.parametrize("device_only", [False, True])
def test_slots_without_a_choice_are_asked_of_nobody(capacity: int | None, device_only: bool) -> None:
    active = torch.ones(5, dtype=torch.bool) if device_only else None
    plan = plan_dispatch(NO_CHOICE, 3, capacity, active, complete=False)
    assert plan.asked_E.tolist() == [3, 1, 4]
    assert plan.served_E.tolist() == [min(asked, capacity or 9) for asked in (3, 1, 4)]
    assert plan.kept_TK is not None and not plan.kept_TK[NO_CHOICE == 3].any()
    assert plan.kept_TK.sum() == plan.served_E.sum()


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_the_highest_priority_is_served_first_but_first_choices_before_second_ones(capacity: int) -> None:
    torch.manual_seed(0)
    choices = torch.rand(40, 4).argsort(dim=1)[:, :2]
    priority = torch.rand(40, 2)
    plan = plan_dispatch(choices, 4, capacity, priority_TK=priority)
    kept = torch.ones_like(choices, dtype=torch.bool) if plan.kept_TK is None else plan.kept_TK
    for e in range(4):
        slots = [(k, -priority[t, k].item(), t) for t in range(40) for k in range(2) if choices[t, k] == e]
        want = {(t, k) for k, _, t in sorted(slots)[:capacity]}
        assert {(t, k) for t in range(40) for k in range(2) if choices[t, k] == e and kept[t, k]} == want
    x = torch.randn(40, 3)
    torch.testing.assert_close(sum_rows(x[plan.token_S], plan), x * kept.sum(dim=1, keepdim=True))


def test_equal_priorities_are_served_in_token_order() -> None:
    plain, equal = (plan_dispatch(CHOICES, 4, 2, priority_TK=p) for p in (None, torch.ones(5, 2)))
    assert plain.kept_TK is not None and equal.kept_TK is not None and plain.kept_TK.equal(equal.kept_TK)
    assert plain.slot_S.equal(equal.slot_S)
