"""Kernel ``loop``: one matrix product per expert, straight into shared buffers. The faster one on a CPU.

Forward keeps the tokens as they came and one [S, F] activation; gathered rows and the experts' outputs are made again
or not needed. The gradient of a combine weight, <grad y, FFN_e(x)>, is taken at the hidden layer instead:
<grad y W_out, a> + <grad y, b_out>.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from smoe_mt.moe.dispatch import Plan, of_slots, of_tokens, sum_rows
from smoe_mt.moe.experts.activations import Activation
from smoe_mt.moe.experts.prepacked import MOST_ROWS, PackedWeights, packed_linear
from smoe_mt.moe.kernels.threads import for_each_expert

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NO_GRADIENTS: Gradients = (None, None, None, None)


class WeightGradients:
    """Where the strata of one pass add up the gradients of the experts' weights: one buffer, no sum of whole stacks.

    The first stratum that comes back hands the buffer to autograd, the others write into it; ``share_gradients`` closes
    it after the last one. A backward pass that left it open is told by its number.
    """

    def __init__(self) -> None:
        self._pass = -1
        self._buffers: Weights | None = None
        self._written: set[int] = set()

    def open(self, weights: Weights) -> tuple[Weights, bool]:
        """The buffers, of the weights' shapes, and whether they are new in this backward pass."""
        number = torch._C._current_graph_task_id()
        if self._buffers is not None and self._pass == number:
            return self._buffers, False
        self._pass, self._written = number, set()
        w_in, b_in, w_out, b_out = weights
        self._buffers = torch.empty_like(w_in), torch.empty_like(b_in), torch.empty_like(w_out), torch.empty_like(b_out)
        return self._buffers, True

    def add(self, e: int, grad_h: Tensor, x: Tensor, grad_out: Tensor, a: Tensor, weight_S: Tensor) -> None:
        """Gradients of expert ``e`` from its rows: grad_h [S, F] and a [S, F] unweighted, x and grad_out [S, D] weighted."""
        assert self._buffers is not None
        w_in, b_in, w_out, b_out = (buffer[e] for buffer in self._buffers)
        if e in self._written:
            w_in.addmm_(grad_h.t(), x)
            w_out.addmm_(grad_out.t(), a)
            b_in.addmv_(grad_h.t(), weight_S)
            b_out.add_(grad_out.sum(dim=0))
        else:
            torch.mm(grad_h.t(), x, out=w_in)
            torch.mm(grad_out.t(), a, out=w_out)
            torch.mv(grad_h.t(), weight_S, out=b_in)
            torch.sum(grad_out, dim=0, out=b_out)
            self._written.add(e)

    def close(self, gradients: Gradients) -> None:
        """Zero what no stratum wrote, and let go of the buffers, so that autograd may keep them without a copy."""
        self._buffers = None
        for e in range(0 if gradients[0] is None else gradients[0].size(0)):
            if e not in self._written:
                for gradient in gradients:
                    if gradient is not None:
                        gradient[e].zero_()


class _ShareGradients(torch.autograd.Function):
    """The weights as they are; backward closes ``gradients``."""

    @staticmethod
    def forward(ctx: Any, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, sink: WeightGradients) -> Weights:
        ctx.sink = sink
        ctx.set_materialize_grads(False)
        return w_in.view_as(w_in), b_in.view_as(b_in), w_out.view_as(w_out), b_out.view_as(b_out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.sink.close(gradients)
        return *gradients, None


def share_gradients(weights: Weights, sink: WeightGradients) -> Weights:
    """``weights`` for all strata of one pass, whose gradients meet in ``sink``."""
    shared: Weights = _ShareGradients.apply(*weights, sink)
    return shared


@dataclass(frozen=True)
class LoopCall:
    """What a call needs besides tensors with gradients; drop_SD, a dropout mask on the experts' outputs, or None.

    packed  the weights packed for few rows, where no gradients are asked for; or None
    """

    plan: Plan
    counts: list[int]
    first_expert: int
    activation: Activation
    drop_SD: Tensor | None
    sink: WeightGradients | None
    packed: PackedWeights | None

    def row_slices(self) -> list[slice]:
        """The rows of each expert."""
        ends = list(accumulate(self.counts))
        return [slice(end - count, end) for count, end in zip(self.counts, ends)]


def loop_forward(
    x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: LoopCall, keep: bool
) -> tuple[Tensor, Tensor]:
    """(y_TD, what a backward pass needs of the hidden layer, [S, F] where ``keep``)."""
    w_in, b_in, w_out, b_out = weights
    act, slots = call.activation, call.plan.token_S.numel()
    kept_SF = x_TD.new_empty(slots if keep else 0, w_in.size(1))
    out_SD = x_TD.new_empty(slots, x_TD.size(1))
    # Split and unbound at once: with few tokens, taking slices one by one costs as much as the products.
    experts = list(zip(b_in.unbind(), w_in.transpose(1, 2).unbind(), b_out.unbind(), w_out.transpose(1, 2).unbind()))
    rows = list(zip(x_TD.index_select(0, call.plan.token_S).split(call.counts), out_SD.split(call.counts)))
    kept = kept_SF.split(call.counts) if keep else None

    def compute(e: int) -> None:
        b_1, w_1, b_2, w_2 = experts[call.first_expert + e]
        x, out = rows[e]
        if call.packed is not None and x.size(0) <= MOST_ROWS:
            p_1, p_2 = call.packed.of(call.first_expert + e, w_in, w_out)
            out.copy_(packed_linear(act.output(act.keep(packed_linear(x, p_1, b_1))), p_2, b_2))
            return
        h = torch.addmm(b_1, x, w_1) if kept is None else torch.addmm(b_1, x, w_1, out=kept[e])
        torch.addmm(b_2, act.output(act.keep(h)), w_2, out=out)

    for_each_expert(compute, call.counts, x_TD.device)
    if call.drop_SD is not None:
        out_SD.mul_(call.drop_SD)
    return sum_rows(out_SD, call.plan, weights_TK), kept_SF


class _LoopFFN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_TK: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        call: LoopCall,
    ) -> Tensor:
        y_TD, kept_SF = loop_forward(x_TD, weights_TK, (w_in, b_in, w_out, b_out), call, keep=True)
        ctx.call = call
        ctx.save_for_backward(x_TD, weights_TK, kept_SF, w_in, b_in, w_out, b_out)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, kept_SF, w_in, b_in, w_out, b_out = ctx.saved_tensors
        call: LoopCall = ctx.call
        sink = call.sink if any(ctx.needs_input_grad[2:6]) else None
        gradients = NO_GRADIENTS
        if sink is not None:
            buffers, new = sink.open((w_in, b_in, w_out, b_out))
            gradients = buffers if new else NO_GRADIENTS
        weight_S = of_slots(weights_TK, call.plan)
        grad_rows_SD = x_TD.new_empty(kept_SF.size(0), x_TD.size(1))
        # Nobody asks for it where these rows came from other ranks, which keep their weights.
        grad_weight_S = torch.empty_like(weight_S) if ctx.needs_input_grad[1] else None

        def compute(number: int) -> None:
            e, rows = call.first_expert + number, row_slices[number]
            token_S, kept = call.plan.token_S[rows], kept_SF[rows]
            a = call.activation.output(kept)
            grad_out = grad_TD.index_select(0, token_S)
            if call.drop_SD is not None:
                grad_out.mul_(call.drop_SD[rows])
            grad_a = grad_out @ w_out[e]
            if grad_weight_S is not None:
                torch.sum(grad_a * a, dim=1, dtype=weight_S.dtype, out=grad_weight_S[rows])
                grad_weight_S[rows] += grad_out @ b_out[e]
            grad_h = call.activation.grad(grad_a, kept)
            weight = weight_S[rows].to(x_TD.dtype)
            if sink is not None:
                x = x_TD.index_select(0, token_S).mul_(weight[:, None])
                sink.add(e, grad_h, x, grad_out.mul_(weight[:, None]), a, weight)
            torch.mm(grad_h, w_in[e], out=grad_rows_SD[rows]).mul_(weight[:, None])

        row_slices = call.row_slices()
        for_each_expert(compute, call.counts, x_TD.device)
        grad_weights_TK = None if grad_weight_S is None else of_tokens(grad_weight_S, call.plan)
        return sum_rows(grad_rows_SD, call.plan), grad_weights_TK, *gradients, None


def loop_ffn(x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: LoopCall) -> Tensor:
    """y = sum_k weights_TK[:, k] FFN_e(x) over the slots that ``call.plan`` serves; [T, D]."""
    if torch.is_grad_enabled():
        y_TD: Tensor = _LoopFFN.apply(x_TD, weights_TK, *weights, call)
        return y_TD
    return loop_forward(x_TD, weights_TK, weights, call, keep=False)[0]
