"""Kernel ``loop``: one matrix product per expert, straight into shared buffers. The faster one on a CPU.

Experts may differ in size: the weights are four stacks for each size (``FFNs.weight_stacks``).

Forward keeps the tokens as they came and one activation of F numbers a row; gathered rows and the experts' outputs are made again
or not needed. The gradient of a combine weight, <grad y, FFN_e(x)>, is taken at the hidden layer instead:
<grad y W_out, a> + <grad y, b_out>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from smoe_mt.moe.dispatch import Plan, of_slots, of_tokens, sum_rows
from smoe_mt.moe.experts.activations import Activation
from smoe_mt.moe.experts.prepacked import PackedWeights
from smoe_mt.moe.kernels.hidden_gradients import hidden_gradients
from smoe_mt.moe.kernels.threads import for_each_expert

#: w_in [E', F', D], b_in [E', F'], w_out [E', D, F'], b_out [E', D] of each size, one after the other.
Weights = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]
STACKS = 4
#: Of each expert, the number of its size and its entry in those stacks; None: there is one size.
Places = Sequence[tuple[int, int]] | None


def experts_of(stacks: Weights, places: Places) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each expert's own w_in, b_in, w_out, b_out.

    Unbound at once: with few tokens, taking slices one by one costs as much as the products.
    """
    sizes: list[Any] = [
        list(zip(*(stack.unbind() for stack in stacks[first : first + STACKS])))
        for first in range(0, len(stacks), STACKS)
    ]
    return sizes[0] if places is None else [sizes[size][entry] for size, entry in places]


class WeightGradients:
    """Where the strata of one pass add up the gradients of the experts' weights: one buffer a stack, no sum of stacks.

    The first stratum that comes back hands the buffer to autograd, the others write into it; ``share_gradients`` closes
    it after the last one. A backward pass that left it open is told by its number.
    """

    def __init__(self, places: Places = None) -> None:
        self._places = places
        self._pass = -1
        self._buffers: Weights | None = None
        self._experts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._written: set[int] = set()

    def open(self, weights: Weights) -> tuple[Weights, bool]:
        """The buffers, of the weights' shapes, and whether they are new in this backward pass."""
        number = torch._C._current_graph_task_id()
        if self._buffers is not None and self._pass == number:
            return self._buffers, False
        self._pass, self._written = number, set()
        self._buffers = tuple(torch.empty_like(stack) for stack in weights)
        self._experts = experts_of(self._buffers, self._places)
        return self._buffers, True

    def add(self, e: int, grad_h: Tensor, x: Tensor, grad_out: Tensor, a: Tensor, weight_S: Tensor) -> None:
        """Gradients of expert ``e`` from its rows: grad_h [S, F] and a [S, F] unweighted, x and grad_out [S, D] weighted."""
        w_in, b_in, w_out, b_out = self._experts[e]
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
        self._buffers, self._experts = None, []
        one_size = range(0 if gradients[0] is None else gradients[0].size(0))
        places = [(0, e) for e in one_size] if self._places is None else self._places
        for e, (size, entry) in enumerate(places):
            if e not in self._written:
                for gradient in gradients[STACKS * size : STACKS * (size + 1)]:
                    if gradient is not None:
                        gradient[entry].zero_()


class _ShareGradients(torch.autograd.Function):
    """The weights as they are; backward closes ``gradients``."""

    @staticmethod
    def forward(ctx: Any, sink: WeightGradients, *weights: Tensor) -> Weights:
        ctx.sink = sink
        ctx.set_materialize_grads(False)
        return tuple(stack.view_as(stack) for stack in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.sink.close(gradients)
        return None, *gradients


def share_gradients(weights: Weights, sink: WeightGradients) -> Weights:
    """``weights`` for all strata of one pass, whose gradients meet in ``sink``."""
    shared: Weights = _ShareGradients.apply(sink, *weights)
    return shared


@dataclass(frozen=True)
class LoopCall:
    """What a call needs besides tensors with gradients; drop_SD, a dropout mask on the experts' outputs, or None.

    packed  the products as they are made ready for evaluation, where no gradients are asked for; or None
    places  where each expert's weights are, if there are several sizes
    """

    plan: Plan
    counts: list[int]
    first_expert: int
    activation: Activation
    drop_SD: Tensor | None
    sink: WeightGradients | None
    packed: PackedWeights | None
    places: Places = None

    def row_slices(self) -> list[slice]:
        """The rows of each expert."""
        ends = list(accumulate(self.counts))
        return [slice(end - count, end) for count, end in zip(self.counts, ends)]

    def hidden_sizes(self, weights: Weights) -> list[int]:
        """Hidden units of each expert that the plan serves."""
        sizes = [w_in.size(1) for w_in in weights[::STACKS]]
        if self.places is None:
            return sizes * len(self.counts)
        return [sizes[size] for size, _ in self.places[self.first_expert :][: len(self.counts)]]

    def kept(self, kept_S: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """What is kept of each expert's hidden layer, [its rows, its hidden units], one after the other in ``kept_S``."""
        parts = kept_S.split([count * size for count, size in zip(self.counts, sizes)])
        return [part.view(count, size) for part, count, size in zip(parts, self.counts, sizes)]


def loop_forward(
    x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: LoopCall, keep: bool
) -> tuple[Tensor, Tensor]:
    """(y_TD, what a backward pass needs of the hidden layer where ``keep``: ``LoopCall.kept``)."""
    if call.packed is not None and not keep:
        return _evaluate(x_TD, weights_TK, weights, call, call.packed), x_TD.new_empty(0)
    act, slots, sizes = call.activation, call.plan.token_S.numel(), call.hidden_sizes(weights)
    kept_S = x_TD.new_empty(sum(count * size for count, size in zip(call.counts, sizes)) if keep else 0)
    out_SD = x_TD.new_empty(slots, x_TD.size(1))
    experts = experts_of(tuple(w.transpose(1, 2) if w.dim() == 3 else w for w in weights), call.places)
    # Split at once, as the weights are.
    rows = list(zip(x_TD.index_select(0, call.plan.token_S).split(call.counts), out_SD.split(call.counts)))
    kept = call.kept(kept_S, sizes) if keep else None

    def compute(e: int) -> None:
        w_1, b_1, w_2, b_2 = experts[call.first_expert + e]
        x, out = rows[e]
        h = torch.addmm(b_1, x, w_1) if kept is None else torch.addmm(b_1, x, w_1, out=kept[e])
        torch.addmm(b_2, act.output(act.keep(h)), w_2, out=out)

    for_each_expert(compute, call.counts, x_TD.device, sizes)
    if call.drop_SD is not None:
        out_SD.mul_(call.drop_SD)
    return sum_rows(out_SD, call.plan, weights_TK), kept_S


def _evaluate(x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: LoopCall, packed: PackedWeights) -> Tensor:
    """y_TD by products that are ready for evaluation."""
    rows, experts = x_TD.index_select(0, call.plan.token_S).split(call.counts), experts_of(weights, call.places)
    parts = list(rows)

    def compute(e: int) -> None:
        first, second = packed.of(call.first_expert + e, *experts[call.first_expert + e])
        parts[e] = second(first(rows[e], call.activation.name))

    for_each_expert(compute, call.counts, x_TD.device, call.hidden_sizes(weights))
    return sum_rows(torch.cat(parts), call.plan, weights_TK)


class _LoopFFN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor, call: LoopCall, *weights: Tensor) -> Tensor:
        y_TD, kept_S = loop_forward(x_TD, weights_TK, weights, call, keep=True)
        ctx.call = call
        ctx.save_for_backward(x_TD, weights_TK, kept_S, *weights)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, kept_S, *weights = ctx.saved_tensors
        call: LoopCall = ctx.call
        sink = call.sink if any(ctx.needs_input_grad[3:]) else None
        gradients: Gradients = (None,) * len(weights)
        if sink is not None:
            buffers, new = sink.open(tuple(weights))
            gradients = buffers if new else gradients
        sizes, experts = call.hidden_sizes(weights), experts_of(weights, call.places)
        all_kept = call.kept(kept_S, sizes)
        weight_S = of_slots(weights_TK, call.plan)
        grad_rows_SD = x_TD.new_empty(call.plan.token_S.numel(), x_TD.size(1))
        # Nobody asks for it where these rows came from other ranks, which keep their weights.
        weight_dtype = weight_S.dtype if ctx.needs_input_grad[1] else None
        grad_weight_S = torch.empty_like(weight_S) if weight_dtype else None

        def compute(number: int) -> None:
            e, rows = call.first_expert + number, row_slices[number]
            w_in, _, w_out, b_out = experts[e]
            token_S, drop = call.plan.token_S[rows], None if call.drop_SD is None else call.drop_SD[rows]
            grad_out, a, grad_h, grad_weight = hidden_gradients(
                grad_TD,
                token_S,
                drop,
                lambda grad: grad @ w_out,
                b_out,
                all_kept[number],
                call.activation,
                weight_dtype,
            )
            if grad_weight_S is not None and grad_weight is not None:
                grad_weight_S[rows] = grad_weight
            weight = weight_S[rows].to(x_TD.dtype)
            if sink is not None:
                x = x_TD.index_select(0, token_S).mul_(weight[:, None])
                sink.add(e, grad_h, x, grad_out.mul_(weight[:, None]), a, weight)
            torch.mm(grad_h, w_in, out=grad_rows_SD[rows]).mul_(weight[:, None])

        row_slices = call.row_slices()
        for_each_expert(compute, call.counts, x_TD.device, sizes)
        grad_weights_TK = None if grad_weight_S is None else of_tokens(grad_weight_S, call.plan)
        return sum_rows(grad_rows_SD, call.plan), grad_weights_TK, None, *gradients


def loop_ffn(x_TD: Tensor, weights_TK: Tensor, weights: Weights, call: LoopCall) -> Tensor:
    """y = sum_k weights_TK[:, k] FFN_e(x) over the slots that ``call.plan`` serves; [T, D]."""
    if torch.is_grad_enabled():
        y_TD: Tensor = _LoopFFN.apply(x_TD, weights_TK, call, *weights)
        return y_TD
    return loop_forward(x_TD, weights_TK, weights, call, keep=False)[0]
