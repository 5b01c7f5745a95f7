"""The experts' products on the way back of a gate: four launches, five where outputs were dropped out."""

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
    x: Tensor,
    passed: Passed,
    grads: Experts,
    first_added: int,
    reuse: bool,
) -> ExpertGradients:
    """The experts' products on the way back; arguments as of ``gate_backward``. Gradients of both matrices go into ``grads``."""
    w, cuts, kept = gate.weights, gate.tiles, passed.kept
    products = Products(gate, passed, launch)
    by_row, bound = gate.settings.expert_dropout > 0, gate.rows_bound()
    grad_y = _grad_y(gate, launch, grad, passed).to(gate.dtype)
    seen = (passed.normed if gate.norm else x).to(gate.dtype)
    active = kept if gate.relu else torch.empty_like(kept)
    grad_h = kept if gate.relu and reuse else torch.empty_like(kept)

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    weight_parts = new(triton.cdiv(gate.hidden, cuts.grad_hidden.columns), bound)
    bias_parts = new(bound // cuts.grad_hidden.rows, gate.hidden)

    def grad_w_out() -> None:
        products.outer("grad_w_out", cuts.grad_w_out, grad_y, not by_row, active, False, grads.w_out, first_added)

    if gate.relu:  # grad_h may take the place of what was kept
        grad_w_out()
    shares = {"kept": kept, "second": active, "weight_parts": weight_parts, "bias_parts": bias_parts}
    products.rows(GRAD_HIDDEN, cuts.grad_hidden, grad_y, not by_row, w.w_out, None, grad_h, **shares)
    if not gate.relu:  # ``active`` is made by that product
        grad_w_out()
    products.outer("grad_w_in", cuts.grad_w_in, grad_h, False, seen, True, grads.w_in, first_added)
    grad_rows = new(bound, gate.dim, dtype=gate.dtype)
    products.rows(GRAD_INPUT, cuts.grad_input, grad_h, False, w.w_in, None, grad_rows)
    return ExpertGradients(grad_y, by_row, grad_rows, weight_parts, bias_parts)


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
