"""Kernel ``grouped``: torch's grouped matrix product, one kernel for all experts, for GPUs.

The number of rows of each expert stays on the device: buffers have a row for every slot, and the product leaves out
those after the last served one. What lies there is undefined; nothing reads it but row by row, and sums over tokens
pass it over (``sum_rows``, ``of_tokens``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from smoe_mt.moe.dispatch import Plan, of_slots, of_tokens, sum_rows
from smoe_mt.moe.experts.activations import Activation
from smoe_mt.moe.kernels.hidden_gradients import hidden_gradients

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ALIGNMENT = 16  # bytes; torch refuses other strides


def grouped_refuses(dtype: torch.dtype, embed_dim: int, ffn_dim: int) -> str | None:
    """Why the grouped product cannot do it, None where it can."""
    if not hasattr(F, "grouped_mm"):
        return f"this torch ({torch.__version__}) has no grouped matrix product"
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
    if embed_dim * dtype.itemsize % ALIGNMENT or ffn_dim * dtype.itemsize % ALIGNMENT:
        multiple = ALIGNMENT // dtype.itemsize
        return f"embed_dim={embed_dim} and ffn_dim={ffn_dim} must be multiples of {multiple}"
    return None


@dataclass(frozen=True)
class GroupedCall:
    """What a call needs besides tensors with gradients; drop_SD, a dropout mask on the experts' outputs, or None.

    ends_E    int32 [E], over all experts of the block: where each one's rows end
    expert_S  int64 [S], expert of each row; any for an undefined row
    """

    plan: Plan
    ends_E: Tensor
    expert_S: Tensor
    activation: Activation
    drop_SD: Tensor | None


def grouped_call(
    plan: Plan, first_expert: int, num_experts: int, activation: Activation, drop_SD: Tensor | None
) -> GroupedCall:
    """The experts before ``first_expert`` get no rows: slicing the weights would cost a copy of their gradients."""
    last = num_experts - first_expert - plan.served_E.numel()
    ends_E = F.pad(plan.served_E, (first_expert, last)).cumsum(dim=0, dtype=torch.int32)
    rows = torch.arange(plan.slot_S.numel(), device=ends_E.device, dtype=torch.int32)
    expert_S = torch.searchsorted(ends_E, rows, right=True).clamp_(max=num_experts - 1)
    return GroupedCall(plan, ends_E, expert_S, activation, drop_SD)


def _products(rows_SI: Tensor, weights_EOI: Tensor, call: GroupedCall) -> Tensor:
    """rows @ weights[e]^T, each row with its expert's; [S, O]."""
    return F.grouped_mm(rows_SI, weights_EOI.transpose(1, 2), offs=call.ends_E)


def _outer(grad_SO: Tensor, rows_SI: Tensor, call: GroupedCall) -> Tensor:
    """For each expert the sum over its rows of grad^T row; [E, O, I]."""
    return F.grouped_mm(grad_SO.t(), rows_SI, offs=call.ends_E)


def _sums(grad_SO: Tensor, weight_S: Tensor, call: GroupedCall) -> Tensor:
    """For each expert the weighted sum of its rows, as a product: no two threads add to one place; [E, O]."""
    width = ALIGNMENT // grad_SO.dtype.itemsize
    return _outer(weight_S[:, None].expand(-1, width).contiguous(), grad_SO, call)[:, 0]


class _GroupedFFN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_TK: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        call: GroupedCall,
    ) -> Tensor:
        act = call.activation
        h_SF = _products(x_TD.index_select(0, call.plan.token_S), w_in, call)
        kept_SF = act.keep(h_SF.add_(b_in.index_select(0, call.expert_S)))
        out_SD = _products(act.output(kept_SF), w_out, call).add_(b_out.index_select(0, call.expert_S))
        if call.drop_SD is not None:
            out_SD.mul_(call.drop_SD)
        ctx.call = call
        ctx.save_for_backward(x_TD, weights_TK, kept_SF, w_in, w_out, b_out)
        return sum_rows(out_SD, call.plan, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, kept_SF, w_in, w_out, b_out = ctx.saved_tensors
        call: GroupedCall = ctx.call
        weight_S = of_slots(weights_TK, call.plan)
        weight_S1 = weight_S.to(x_TD.dtype)[:, None]
        ones_S = torch.ones_like(weight_S1[:, 0])
        grad_out_SD, a_SF, grad_h_SF, grad_weight_S = hidden_gradients(
            grad_TD,
            call.plan.token_S,
            call.drop_SD,
            lambda grad: _products(grad, w_out.transpose(1, 2), call),
            b_out.index_select(0, call.expert_S),
            kept_SF,
            call.activation,
            weight_S.dtype if ctx.needs_input_grad[1] else None,
        )
        grad_weights_TK = None if grad_weight_S is None else of_tokens(grad_weight_S, call.plan)
        gradients: tuple[Tensor | None, ...] = (None,) * 4
        if any(ctx.needs_input_grad[2:6]):
            x_SD = x_TD.index_select(0, call.plan.token_S).mul_(weight_S1)
            grad_out_SD.mul_(weight_S1)
            gradients = (
                _outer(grad_h_SF, x_SD, call),
                _sums(grad_h_SF, weight_S1[:, 0], call),
                _outer(grad_out_SD, a_SF, call),
                _sums(grad_out_SD, ones_S, call),
            )
        grad_rows_SD = _products(grad_h_SF, w_in.transpose(1, 2), call).mul_(weight_S1)
        return sum_rows(grad_rows_SD, call.plan), grad_weights_TK, *gradients, None


def grouped_ffn(x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: GroupedCall) -> Tensor:
    """y = sum_k weights_TK[:, k] FFN_e(x) over the slots that ``call.plan`` serves; [T, D]."""
    y_TD: Tensor = _GroupedFFN.apply(x_TD, weights_TK, *weights, call)
    return y_TD
