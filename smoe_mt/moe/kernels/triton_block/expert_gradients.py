"""The experts' products on the way back of a gate: four launches a turn, one more where a turn is computed again."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from smoe_mt.moe.kernels.triton_block.gate import Gate
from smoe_mt.moe.kernels.triton_block.launching import Launcher
from smoe_mt.moe.kernels.triton_block.products import GRAD_HIDDEN, GRAD_INPUT, Products
from smoe_mt.moe.kernels.triton_block.programs import combining
from smoe_mt.moe.kernels.triton_block.records import Experts, Passed


class ExpertGradients(NamedTuple):
    """What the experts' products leave for the rest of the way back.

    grad_y        gradients of the experts' outputs: by token [T, D], or by row [S, D] where ``by_row``
    grad_rows     of the experts' inputs, [S, D]
    weight_parts  fp32 [parts, S], shares of the combine weights' gradients
    bias_parts    fp32 [tiles of rows, F], shares of the gradient of b_in
    """

    grad_y: Tensor
    by_row: bool
    grad_rows: Tensor
    weight_parts: Tensor
    bias_parts: Tensor


def expert_gradients(
    gate: Gate,
    launch: Launcher,
    grad: Tensor,
    seen: Tensor,
    passed: Passed,
    grads: Experts,
    first_added: int,
    reuse: bool,
    room: Tensor | None,
) -> ExpertGradients:
    """The experts' products on the way back; arguments as of ``gate_backward``. Gradients of both matrices go into ``grads``.

    Turns come back from last to first: the hidden layer holds the last one. One before it is computed again, which costs nothing
    but a launch where all rows passed in the first turn.
    """
    cuts, by_row, bound = gate.tiles, gate.settings.expert_dropout > 0, gate.rows_bound()

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=grad.device)

    if room is None or room.numel() < bound * gate.dim:
        room = new(bound * gate.dim, dtype=gate.dtype)

    found = ExpertGradients(
        grad_y=_grad_y(gate, launch, grad, passed).to(gate.dtype),
        by_row=by_row,
        grad_rows=room[: bound * gate.dim].view(bound, gate.dim),
        weight_parts=new(triton.cdiv(gate.hidden, cuts.grad_hidden.columns), bound),
        bias_parts=new(bound // cuts.grad_hidden.rows, gate.hidden),
    )
    if gate.turns > 1 and not reuse:
        passed, reuse = passed._replace(kept=passed.kept.clone()), True
    active = passed.kept if gate.relu else torch.empty_like(passed.kept)
    grad_h = passed.kept if gate.relu and reuse else torch.empty_like(passed.kept)
    for turn in reversed(range(gate.turns)):
        products = Products(gate, passed, launch, turn)
        if turn < gate.turns - 1:
            products.again(seen.to(gate.dtype), active)
        _turn(products, seen.to(gate.dtype), active, grad_h, found, grads, first_added)
    return found


def _turn(
    products: Products,
    seen: Tensor,
    active: Tensor,
    grad_h: Tensor,
    found: ExpertGradients,
    grads: Experts,
    first_added: int,
) -> None:
    """The rows of one turn; active, grad_h [rows of a turn, F]: the weighted activation, and the gradient of what comes before it."""
    gate, grad_y, by_token = products.gate, found.grad_y, not found.by_row
    w, cuts = gate.weights, gate.tiles

    def grad_w_out() -> None:
        products.outer("grad_w_out", cuts.grad_w_out, grad_y, by_token, active, False, grads.w_out, first_added)

    if gate.relu:  # grad_h may take the place of what was kept
        grad_w_out()
    shares = {"weight_parts": found.weight_parts, "bias_parts": found.bias_parts}
    kept = products.passed.kept
    products.rows(
        GRAD_HIDDEN, cuts.grad_hidden, grad_y, by_token, w.w_out, None, grad_h, kept=kept, second=active, **shares
    )
    if not gate.relu:  # ``active`` is made by that product
        grad_w_out()
    products.outer("grad_w_in", cuts.grad_w_in, grad_h, False, seen, True, grads.w_in, first_added)
    products.rows(GRAD_INPUT, cuts.grad_input, grad_h, False, w.w_in, None, found.grad_rows)


def _grad_y(gate: Gate, launch: Launcher, grad: Tensor, passed: Passed) -> Tensor:
    """The gradient of what the experts gave: by token [T, D], or by row [S, D]."""
    s, bd = gate.settings, min(256, triton.next_power_of_2(gate.dim))
    if s.expert_dropout:
        out = torch.empty(gate.rows_bound(), gate.dim, dtype=grad.dtype, device=grad.device)
        launch(
            "row_gradient",
            combining.row_gradient_kernel,
            (triton.cdiv(out.size(0), 16), triton.cdiv(gate.dim, bd)),
            grad,
            passed.token_of_row,
            passed.starts,
            gate.seeds,
            gate.number,
            out,
            gate.experts,
            gate.dim,
            1.0 - s.expert_dropout,
            BT=16,
            BD=bd,
        )
        return out
    if not s.dropout:
        return grad
    out = torch.empty_like(grad)
    launch(
        "dropout_gradient",
        combining.dropout_gradient_kernel,
        (triton.cdiv(gate.tokens, 16), triton.cdiv(gate.dim, bd)),
        grad,
        passed.tokens,
        passed.count,
        gate.seeds,
        gate.number,
        out,
        gate.tokens,
        gate.dim,
        1.0 - s.dropout,
        PACKED=passed.packed,
        BT=16,
        BD=bd,
    )
    return out
