"""From choices to rows sorted by expert, and back to tokens: linear in tokens, no tokens x experts x capacity tensor.

A slot is a (token, choice) pair. All first choices are placed before all second choices, each in token order or by a
priority of their own; an expert serves its first ``capacity`` slots, the others are dropped. A stable sort by expert of the
choice-major list of slots gives that order. Each token knows the row of each of its slots, so both ways are gathers, forward
and backward: no two threads add to one place in memory, and results are the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Plan:
    """Where each slot goes. Rows are sorted by expert: expert e has a run of served_E[e] of them.

    slot_S    int64 [S]     slot of each row: choice * T + token
    token_S   int64 [S]     token of each row
    row_TK    int64 [T, K]  row of each slot; where it was dropped, one that holds nothing for it (see kept_TK)
    kept_TK   bool [T, K]   slot served; None where no slot was dropped
    asked_E   int64 [E]     slots asked of each expert
    served_E  int64 [E]     slots served by each expert

    Planned without knowing how many are served (``here_T``), there are T * K rows; those after the served ones are
    undefined and belong to dropped slots.
    """

    slot_S: Tensor
    token_S: Tensor
    row_TK: Tensor
    kept_TK: Tensor | None
    asked_E: Tensor
    served_E: Tensor


def plan_dispatch(
    choices_TK: Tensor,
    num_experts: int,
    capacity: int | Tensor | None,
    active_T: Tensor | None = None,
    *,
    complete: bool = True,
    priority_TK: Tensor | None = None,
) -> Plan:
    """Place the slots of ``choices_TK``, int64 [T, K]: an expert below ``num_experts``, or ``num_experts`` for no choice.

    capacity     the most slots an expert serves; None serves all
    active_T     bool [T], tokens that take part, None for all. Where given, nothing is read back from the device, and
                 the plan has rows for all slots.
    complete     every slot has a choice
    priority_TK  under a capacity, who is served first among the k-th choices, highest first; None: in token order
    """
    tokens, top_k = choices_TK.shape
    expert_of_slot = choices_TK.t().reshape(-1)
    if active_T is not None:
        expert_of_slot = expert_of_slot.masked_fill(~active_T.repeat(top_k), num_experts)  # sorted to the end
    if priority_TK is None or capacity is None:
        sorted_experts, slot_of_row = expert_of_slot.sort(stable=True)
    else:
        by_priority = _by_priority(priority_TK)
        sorted_experts, place = expert_of_slot.index_select(0, by_priority).sort(stable=True)
        slot_of_row = by_priority.index_select(0, place)
    number = torch.arange(expert_of_slot.numel(), device=choices_TK.device)
    edges = torch.searchsorted(sorted_experts, torch.arange(num_experts + 1, device=choices_TK.device))
    asked_E = edges.diff()
    if complete and active_T is None and (capacity is None or int(capacity) >= tokens):
        row_of_slot = torch.empty_like(slot_of_row).scatter_(0, slot_of_row, number)
        return Plan(
            slot_of_row, slot_of_row % max(tokens, 1), row_of_slot.view(top_k, tokens).t(), None, asked_E, asked_E
        )
    served = sorted_experts < num_experts
    if capacity is not None:
        served &= number - edges[sorted_experts] < capacity
    served_before = served.cumsum(0)
    # Served slots close up; the dropped ones follow them.
    row = torch.where(served, served_before - 1, served_before[-1:] + number - served_before)
    slot_S = torch.empty_like(row).scatter_(0, row, slot_of_row)
    if active_T is None:
        slot_S = slot_S[: int(served_before[-1])] if number.numel() else slot_S
        row = row.masked_fill(~served, 0)
    row_of_slot = torch.empty_like(row).scatter_(0, slot_of_row, row)
    kept = torch.empty_like(served).scatter_(0, slot_of_row, served)
    return Plan(
        slot_S=slot_S,
        token_S=slot_S % max(tokens, 1),
        row_TK=row_of_slot.view(top_k, tokens).t(),
        kept_TK=kept.view(top_k, tokens).t(),
        asked_E=asked_E,
        served_E=asked_E if capacity is None else asked_E.clamp(max=capacity),
    )


def _by_priority(priority_TK: Tensor) -> Tensor:
    """Slots choice by choice, in each the highest priority first; int64 [K * T]."""
    tokens, top_k = priority_TK.shape
    order_KT = priority_TK.detach().t().sort(dim=1, descending=True, stable=True).indices
    return (order_KT + torch.arange(top_k, device=order_KT.device)[:, None] * tokens).reshape(-1)


def of_slots(values_TK: Tensor, plan: Plan) -> Tensor:
    """``values_TK`` in the order of the rows; [S]."""
    return values_TK.t().reshape(-1).index_select(0, plan.slot_S)


def of_tokens(values_S: Tensor, plan: Plan) -> Tensor:
    """The inverse of ``of_slots``: 0 where the slot was dropped; [T, K]."""
    if values_S.numel() == 0:
        return values_S.new_zeros(plan.row_TK.shape)
    values_TK = values_S[plan.row_TK]
    return values_TK if plan.kept_TK is None else values_TK.masked_fill_(~plan.kept_TK, 0.0)


def sum_rows(rows_SD: Tensor, plan: Plan, weights_TK: Tensor | None = None) -> Tensor:
    """For each token the sum of its rows, times their weights (eq. 6): 0 for a token that lost all its slots; [T, D].

    Summed in the weights' precision, returned in that of the rows.
    """
    tokens, top_k = plan.row_TK.shape
    if rows_SD.size(0) == 0:
        return rows_SD.new_zeros(tokens, rows_SD.size(1))
    total_TD: Tensor | None = None
    for k in range(top_k):
        part_TD = rows_SD.index_select(0, plan.row_TK[:, k])
        if weights_TK is not None:
            part_TD = part_TD.to(weights_TK.dtype).mul_(weights_TK[:, k, None])
        if plan.kept_TK is not None:
            part_TD.masked_fill_(~plan.kept_TK[:, k, None], 0.0)
        total_TD = part_TD if total_TD is None else total_TD.add_(part_TD)
    assert total_TD is not None
    return total_TD.to(rows_SD.dtype)


# --- both ways as functions with gradients, for what has no kernel of its own ---


class Gather(torch.autograd.Function):
    """The rows of a plan, [S, D]. Both ways are gathers, as in the kernels."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return x_TD.index_select(0, plan.token_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        return sum_rows(grad_SD, ctx.plan), None


class Combine(torch.autograd.Function):
    """Each token's rows times their weights, added up (eq. 6); [T, D]."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, weights_TK: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(rows_SD, weights_TK)
        return sum_rows(rows_SD, plan, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:
        rows_SD, weights_TK = ctx.saved_tensors
        weight_S = of_slots(weights_TK, ctx.plan)
        grad_SD = grad_TD.index_select(0, ctx.plan.token_S)
        grad_weight_S = (grad_SD * rows_SD).sum(dim=1, dtype=weight_S.dtype)
        return grad_SD.mul_(weight_S[:, None].to(grad_SD.dtype)), of_tokens(grad_weight_S, ctx.plan), None
