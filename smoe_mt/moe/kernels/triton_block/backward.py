"""A gate's way back: the experts' products, then the tokens, the gate, the norm and the biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from smoe_mt.moe.kernels.triton_block import tiles
from smoe_mt.moe.kernels.triton_block.expert_gradients import ExpertGradients, expert_gradients
from smoe_mt.moe.kernels.triton_block.gate import Gate, precision
from smoe_mt.moe.kernels.triton_block.launching import Launcher
from smoe_mt.moe.kernels.triton_block.programs import gate_gradient, gating, norm_gradient, token_gradient
from smoe_mt.moe.kernels.triton_block.records import Experts, Passed


class GateGradients(NamedTuple):
    """Gradients of a gate's input [T, D], its weight [E, D], its bias [E] and its norm's weights [2, D], where it has them."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    norm: Tensor | None


@dataclass(frozen=True)
class Cut:
    """How the tokens are shared out to the programs of the way back.

    whole                    one kernel goes through gate and norm, with whole rows
    tokens, columns, warps   of a program of ``token_gradient_kernel``
    norm_rows, norm_programs of those that sum the norm's gradients
    splits                   shares of the tokens in ``gate_gradient_kernel``
    """

    whole: bool
    tokens: int
    columns: int
    warps: int
    norm_rows: int
    norm_programs: int
    splits: int

    @staticmethod
    def of(gate: Gate, device: torch.device) -> Cut:
        t, columns = gate.tokens, triton.next_power_of_2(gate.dim)
        whole = gate.norm is not None and tiles.norm_goes_along(t, gate.dim, gate.width)
        norm_rows = max(1, 2048 // columns)
        if whole:
            tokens, width, warps = 4, max(128, columns), max(1, columns // 128)
        else:
            tokens, width, warps = 16 if t <= 16384 else 32, 64, 4
        programs = min(triton.cdiv(t, tokens if whole else norm_rows), tiles.multiprocessors(device) * 4)
        return Cut(whole, tokens, width, warps, norm_rows, programs, splits=min(16, triton.cdiv(t, 64)))


def gate_backward(
    gate: Gate,
    launch: Launcher,
    grad: Tensor,
    grad_losses: Tensor,
    x: Tensor,
    seen: Tensor,
    passed: Passed,
    grads: Experts,
    first_added: int,
    reuse: bool,
    room: Tensor | None,
) -> GateGradients:
    """From the gradient of what left the gate, [T, D]; those of the experts go into ``grads``.

    seen         what gate and experts saw of x
    first_added  the experts from this one on have gradients of later gates: add to them
    reuse        what was kept may be overwritten
    room         memory of the experts' type that nobody needs any more, in one row; or None
    """
    found = expert_gradients(gate, launch, grad, seen, passed, grads, first_added, reuse, room)
    cut = Cut.of(gate, x.device)
    grad_logits = torch.empty(gate.tokens, gate.width, dtype=torch.float32, device=x.device)
    norm_rows = cut.norm_programs if gate.norm else 0
    norm_parts = torch.empty(norm_rows, 2, gate.dim, dtype=torch.float32, device=x.device)
    grad_x = _tokens(gate, launch, cut, grad, grad_losses, x, passed, found, grad_logits, norm_parts)
    if gate.norm and not cut.whole:
        _norm(gate, launch, cut, grad, x, passed, grad_x, norm_parts)
    gate_parts, logit_parts = _gate(gate, launch, cut, seen, passed, found, grad_logits)
    return _sums(gate, launch, cut, passed, found, gate_parts, logit_parts, norm_parts, grad_x, grads, first_added)


def norm_again(gate: Gate, launch: Launcher, x: Tensor, next_gate: Tensor, passed: Passed, normed: Tensor) -> None:
    """Fill ``normed`` [T, D] with what the gate saw, where a later gate has overwritten it."""
    assert gate.norm is not None
    bt, bd = 16, min(256, triton.next_power_of_2(gate.dim))
    launch(
        "norm_again",
        gating.norm_again_kernel,
        (triton.cdiv(gate.tokens, bt), triton.cdiv(gate.dim, bd)),
        x,
        passed.tokens,
        passed.count,
        passed.choices,
        next_gate,
        *gate.norm,
        passed.means,
        passed.scales,
        normed,
        gate.first,
        gate.gates,
        gate.tokens,
        gate.dim,
        PACKED=passed.packed,
        BT=bt,
        BD=bd,
        num_warps=4,
    )


def _tokens(
    gate: Gate,
    launch: Launcher,
    cut: Cut,
    grad: Tensor,
    grad_losses: Tensor,
    x: Tensor,
    passed: Passed,
    found: ExpertGradients,
    grad_logits: Tensor,
    norm_parts: Tensor,
) -> Tensor:
    """The gradient of x [T, D], or of the norm's output where ``_norm`` follows; fills grad_logits fp32 [T, width]."""
    s, w, norm = gate.settings, gate.weights, gate.norm
    grad_x = torch.empty_like(x)
    launch(
        "token_gradient",
        token_gradient.token_gradient_kernel,
        (cut.norm_programs if cut.whole else triton.cdiv(gate.tokens, cut.tokens),),
        grad,
        found.grad_y,
        found.grad_rows,
        passed.tokens,
        passed.count,
        passed.row_of_slot,
        passed.choices,
        passed.weight_of_row,
        passed.probs,
        passed.log_sums,
        found.weight_parts,
        passed.load,
        grad_losses,
        w.b_out,
        gate.weight,
        x,
        norm.gamma if norm else passed.probs,
        passed.means,
        passed.scales,
        grad_logits,
        grad_x,
        norm_parts,
        gate.first,
        gate.tokens,
        gate.dim,
        gate.experts,
        gate.rows_bound(),
        found.weight_parts.size(0),
        s.scale,
        gate.number,
        PACKED=passed.packed,
        TOP_K=s.top_k,
        RENORMALISE=s.renormalise,
        Z=s.z,
        ACT_WEIGHTED=gate.relu,
        MASK=s.mask > 0,
        BY_ROW=found.by_row,
        RESIDUAL=gate.residual,
        PRECISION=precision(gate.dtype),
        WHOLE=cut.whole,
        NORM_FOLLOWS=norm is not None and not cut.whole,
        BT=cut.tokens,
        BD=cut.columns,
        BE=gate.width,
        num_warps=cut.warps,
        maxnreg=128 if cut.whole else None,
    )
    return grad_x


def _norm(
    gate: Gate, launch: Launcher, cut: Cut, grad: Tensor, x: Tensor, passed: Passed, grad_x: Tensor, norm_parts: Tensor
) -> None:
    """grad_x becomes that of the norm's input."""
    assert gate.norm is not None
    columns = triton.next_power_of_2(gate.dim)
    launch(
        "norm_gradient",
        norm_gradient.norm_gradient_kernel,
        (cut.norm_programs,),
        grad,
        passed.tokens,
        passed.count,
        x,
        gate.norm.gamma,
        passed.means,
        passed.scales,
        grad_x,
        norm_parts,
        gate.tokens,
        gate.dim,
        PACKED=passed.packed,
        RESIDUAL=gate.residual,
        BT=cut.norm_rows,
        BD=columns,
        num_warps=4 if columns <= 2048 else 8,
    )


def _gate(
    gate: Gate, launch: Launcher, cut: Cut, seen: Tensor, passed: Passed, found: ExpertGradients, grad_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Shares of the gradients of the gate's weight and of b_out, fp32 [splits, 2, E, D]; and of its bias, fp32 [splits, width]."""
    logit_parts = torch.empty(
        cut.splits if gate.bias is not None else 0, gate.width, dtype=torch.float32, device=seen.device
    )
    parts = torch.empty(cut.splits, 2, gate.experts, gate.dim, dtype=torch.float32, device=seen.device)
    launch(
        "gate_gradient",
        gate_gradient.gate_gradient_kernel,
        (triton.cdiv(gate.dim, 64), cut.splits),
        passed.tokens,
        passed.count,
        grad_logits,
        seen,
        found.grad_y,
        passed.row_of_slot,
        passed.choices,
        passed.weight_of_row,
        parts,
        logit_parts,
        gate.tokens,
        gate.dim,
        gate.experts,
        cut.splits,
        PACKED=passed.packed,
        TOP_K=gate.settings.top_k,
        BIAS=gate.bias is not None,
        BY_ROW=found.by_row,
        PRECISION=precision(gate.dtype),
        BT=32 if gate.dtype is torch.float32 else 64,
        BD=64,
        BE=gate.width,
        num_warps=4,
    )
    return parts, logit_parts


def _sums(
    gate: Gate,
    launch: Launcher,
    cut: Cut,
    passed: Passed,
    found: ExpertGradients,
    gate_parts: Tensor,
    logit_parts: Tensor,
    norm_parts: Tensor,
    grad_x: Tensor,
    grads: Experts,
    first_added: int,
) -> GateGradients:
    """The shares of the small gradients summed."""
    norm, device = gate.norm, grad_x.device
    grad_weight = torch.empty_like(gate.weight)
    grad_bias = None if gate.bias is None else torch.empty_like(gate.bias)
    grad_norm = torch.empty(2, gate.dim, dtype=norm.gamma.dtype, device=device) if norm else None
    f_tiles, d_tiles = triton.cdiv(gate.hidden, 64), triton.cdiv(gate.dim, 64)
    launch(
        "reduce",
        gate_gradient.reduce_kernel,
        (gate.experts * (f_tiles + 2 * d_tiles) + (2 * d_tiles if norm else 0),),
        gate_parts,
        logit_parts,
        found.bias_parts,
        norm_parts,
        passed.starts,
        grad_weight,
        passed.probs if grad_bias is None else grad_bias,
        grads.b_out,
        grads.b_in,
        passed.probs if grad_norm is None else grad_norm,
        gate.first,
        first_added,
        gate.experts,
        gate.dim,
        gate.hidden,
        cut.splits,
        cut.norm_programs,
        NORM=norm is not None,
        BIAS=grad_bias is not None,
        BE=gate.width,
        BM=gate.tiles.grad_hidden.rows,
        BR=64,
        BC=64,
        num_warps=4,
    )
    return GateGradients(grad_x, grad_weight, grad_bias, grad_norm)
