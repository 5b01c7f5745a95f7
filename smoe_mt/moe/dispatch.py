"""From choices to rows sorted by expert, and back to tokens: linear in tokens, no tokens x experts x capacity tensor.

A slot is a (token, choice) pair. All first choices are placed before all second choices, in token order; an expert
serves its first ``capacity`` slots, the others are dropped. A stable sort by expert of the choice-major list of slots
gives that order, and each token knows in which row each of its slots went, so both directions of both operations
are gathers: nothing is scattered, forward or backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Where each slot goes.

    token_S   int64 [S]     token of each row; rows are sorted by expert
    row_TK    int64 [T, K]  row of each slot, 0 where it was dropped (see kept_TK)
    kept_TK   bool [T, K]   slot served; None where no slot was dropped
    asked_E   int64 [E]     slots asked of each expert
    served_E  int64 [E]     slots served by each expert: the rows of expert e are a run of served_E[e]
    """

    token_S: Tensor
    row_TK: Tensor
    kept_TK: Tensor | None
    asked_E: Tensor
    served_E: Tensor


def plan_dispatch(choices_TK: Tensor, num_experts: int, capacity: int | None) -> Plan:
    """Place the slots of ``choices_TK`` (int64 [T, K], values below ``num_experts``).

    ``capacity`` is the most slots an expert serves; None serves all.
    """
    tokens, top_k = choices_TK.shape
    slots = tokens * top_k
    sorted_experts, slot_of_row = choices_TK.t().reshape(-1).sort(stable=True)
    edges = torch.searchsorted(sorted_experts, torch.arange(num_experts + 1, device=choices_TK.device))
    asked_E = edges.diff()
    row_of_slot = torch.empty_like(slot_of_row)
    if capacity is None or capacity >= tokens:
        row_of_slot[slot_of_row] = torch.arange(slots, device=choices_TK.device)
        return Plan(slot_of_row % tokens, row_of_slot.view(top_k, tokens).t(), None, asked_E, asked_E)
    position = torch.arange(slots, device=choices_TK.device) - edges[sorted_experts]
    served = position < capacity
    row_of_slot[slot_of_row] = served.cumsum(0) - 1
    kept = torch.empty_like(served)
    kept[slot_of_row] = served
    return Plan(
        token_S=slot_of_row[served] % tokens,
        row_TK=(row_of_slot * kept).view(top_k, tokens).t(),
        kept_TK=kept.view(top_k, tokens).t(),
        asked_E=asked_E,
        served_E=asked_E.clamp(max=capacity),
    )


class _Dispatch(torch.autograd.Function):
    """rows_SD = x_TD[token_S]; backward sums, for each token, the gradients of its rows."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return x_TD.index_select(0, plan.token_S)

    @staticmethod
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        plan: Plan = ctx.plan
        grad_TD: Tensor | None = None
        for k in range(plan.row_TK.size(1)):
            part_TD = grad_SD.index_select(0, plan.row_TK[:, k])
            if plan.kept_TK is not None:
                part_TD.masked_fill_(~plan.kept_TK[:, k, None], 0.0)
            grad_TD = part_TD if grad_TD is None else grad_TD.add_(part_TD)
        assert grad_TD is not None
        return grad_TD, None


class _Combine(torch.autograd.Function):
    """y_TD = sum_k weight_TK[:, k] * rows_SD[row_TK[:, k]], summed in the weights' precision."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, weights_TK: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(rows_SD, weights_TK)
        y_TD: Tensor | None = None
        for k in range(weights_TK.size(1)):
            part_TD = rows_SD.index_select(0, plan.row_TK[:, k]) * weights_TK[:, k, None]
            y_TD = part_TD if y_TD is None else y_TD.add_(part_TD)
        assert y_TD is not None
        return y_TD.to(rows_SD.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:
        plan: Plan = ctx.plan
        rows_SD, weights_TK = ctx.saved_tensors
        weight_S = weights_TK.new_empty(plan.token_S.numel())
        grad_weights = []
        for k in range(weights_TK.size(1)):
            row_T, weight_T = plan.row_TK[:, k], weights_TK[:, k]
            product_T = (rows_SD.index_select(0, row_T).to(weights_TK.dtype) * grad_TD).sum(dim=1)
            if plan.kept_TK is not None:
                kept_T = plan.kept_TK[:, k]
                product_T = product_T.masked_fill(~kept_T, 0.0)
                row_T, weight_T = row_T[kept_T], weight_T[kept_T]
            grad_weights.append(product_T)
            weight_S[row_T] = weight_T
        grad_SD = grad_TD.index_select(0, plan.token_S) * weight_S[:, None]
        return grad_SD.to(rows_SD.dtype), torch.stack(grad_weights, dim=1), None


def dispatch(x_TD: Tensor, plan: Plan) -> Tensor:
    """Rows for the experts, sorted by expert; [S, D]."""
    return _Dispatch.apply(x_TD, plan)


def combine(rows_SD: Tensor, weights_TK: Tensor, plan: Plan) -> Tensor:
    """Weighted sum of each token's rows (eq. 6); 0 for a token that lost all its slots; [T, D].

    ``weights_TK`` must be 0 where a slot was dropped, as ``gating.combine_weights`` gives it.
    """
    if plan.token_S.numel() == 0:
        return rows_SD.new_zeros(weights_TK.size(0), rows_SD.size(1))
    return _Combine.apply(rows_SD, weights_TK, plan)
