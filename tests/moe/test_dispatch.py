"""Dispatch and combine: gathers that undo each other, and gradients that autograd agrees with."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.moe.dispatch import combine, dispatch, plan_dispatch

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
def test_gradients(capacity: int | None) -> None:
    torch.manual_seed(0)
    plan = plan_dispatch(CHOICES, 4, capacity)
    x = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    raw = torch.rand(5, 2, dtype=torch.double, requires_grad=True)
    keep = torch.ones(5, 2) if plan.kept_TK is None else plan.kept_TK

    def through(x: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        return combine(dispatch(x, plan).square(), raw * keep, plan)

    assert torch.autograd.gradcheck(through, (x, raw))


def test_dispatch_and_combine_give_the_tokens_back() -> None:
    plan = plan_dispatch(CHOICES, 4, capacity=None)
    x = torch.randn(5, 3)
    torch.testing.assert_close(combine(dispatch(x, plan), torch.full((5, 2), 0.5), plan), x)


def test_memory_is_linear_in_tokens() -> None:
    """Everything that a plan holds has at most T x K elements."""
    choices = torch.randint(0, 16, (4096, 2))
    plan = plan_dispatch(choices, 16, capacity=600)
    assert all(t.numel() <= 2 * 4096 for t in vars(plan).values() if t is not None)
