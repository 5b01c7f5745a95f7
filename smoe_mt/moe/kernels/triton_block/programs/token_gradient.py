"""Gradients of what a gate decided, and of the tokens that it saw."""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import NORMED
from smoe_mt.moe.kernels.triton_block.programs.norm_gradient import normal, pass_on, through_norm
from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at


@triton.jit
def dot_32(a, b, acc, PRECISION: tl.constexpr):
    """A product with one side in float32: the other one is brought to it."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision=PRECISION)


@triton.jit
def seen_gradient(
    rows, at_1, at_2, kept_1, kept_2, gate_weight, grad_l, grad, at, here_2d, d, ds, e, E, D,
    TOP_K: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The gradient of what the gate saw, at columns d + ds: from experts, gate, and a residual that starts there."""
    fits = ds < D - d
    g = tl.load(rows + at_1 + d, mask=kept_1[:, None] & fits[None, :], other=0.0).to(tl.float32)
    if TOP_K == 2:
        g += tl.load(rows + at_2 + d, mask=kept_2[:, None] & fits[None, :], other=0.0).to(tl.float32)
    if WHOLE:
        for j in tl.range(0, E):
            w = tl.load(gate_weight + j * D + d + ds, mask=fits, other=0.0).to(tl.float32)
            g += tl.sum(tl.where(e[None, :] == j, grad_l, 0.0), axis=1)[:, None] * w[None, :]
    else:
        w = tl.load(gate_weight + e[:, None] * D + d + ds[None, :], mask=(e < E)[:, None] & fits[None, :], other=0.0)
        g = dot_32(grad_l, w, g, PRECISION)
    if RESIDUAL == NORMED:
        g += tl.load(grad + at + d, mask=here_2d & fits[None, :], other=0.0).to(tl.float32)
    return g


@triton.jit
def weight_gradients(
    grad_y, b_out, weight_parts, weight_of_row, first, second, row_1, row_2, kept_1, kept_2, at, at_1, at_2, here_2d, ds, e,
    first_expert, D, E, S, parts, scale_weight,
    TOP_K: tl.constexpr, ACT_WEIGHTED: tl.constexpr, MASK: tl.constexpr, BY_ROW: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Gradients of a token's combine weights: <grad y, b_out> of the expert, and what grad_hidden found."""
    grad_1 = tl.zeros((BT,), tl.float32)
    grad_2 = tl.zeros((BT,), tl.float32)
    for part in tl.range(0, parts):
        grad_1 += tl.load(weight_parts + part * S + row_1, mask=kept_1, other=0.0)
        if TOP_K == 2:
            grad_2 += tl.load(weight_parts + part * S + row_2, mask=kept_2, other=0.0)
    weight_1 = tl.load(weight_of_row + row_1, mask=kept_1, other=0.0)
    weight_2 = weight_1
    if TOP_K == 2:
        weight_2 = tl.load(weight_of_row + row_2, mask=kept_2, other=0.0)
    if ACT_WEIGHTED:
        grad_1 = tl.where(weight_1 > 0, grad_1 / weight_1, 0.0)
        grad_2 = tl.where(weight_2 > 0, grad_2 / weight_2, 0.0)
    if WHOLE or BY_ROW:
        b_at_1 = b_out + (first_expert + first)[:, None] * D + ds[None, :]
        b_at_2 = b_out + (first_expert + second)[:, None] * D + ds[None, :]
        for d in tl.range(0, D, BD):
            fits = (ds < D - d)[None, :]
            mask_1, mask_2 = kept_1[:, None] & fits, kept_2[:, None] & fits
            g = tl.load(grad_y + (at_1 if BY_ROW else at) + d, mask=mask_1, other=0.0).to(tl.float32)
            grad_1 += tl.sum(g * tl.load(b_at_1 + d, mask=mask_1, other=0.0).to(tl.float32), axis=1)
            if TOP_K == 2:
                g = tl.load(grad_y + (at_2 if BY_ROW else at) + d, mask=mask_2, other=0.0).to(tl.float32)
                grad_2 += tl.sum(g * tl.load(b_at_2 + d, mask=mask_2, other=0.0).to(tl.float32), axis=1)
    else:
        of_expert = tl.zeros((BT, BE), tl.float32)
        for d in tl.range(0, D, BD):
            fits = ds < D - d
            g = tl.load(grad_y + at + d, mask=here_2d & fits[None, :], other=0.0)
            b_at = b_out + (first_expert + e)[None, :] * D + d + ds[:, None]
            b = tl.load(b_at, mask=(e < E)[None, :] & fits[:, None], other=0.0)
            of_expert = tl.dot(g, b, of_expert, input_precision=PRECISION)
        grad_1 += tl.sum(tl.where(first[:, None] == e[None, :], of_expert, 0.0), axis=1)
        if TOP_K == 2:
            grad_2 += tl.sum(tl.where(second[:, None] == e[None, :], of_expert, 0.0), axis=1)
    grad_1 *= scale_weight
    grad_2 *= scale_weight
    if MASK:
        grad_1 = tl.where(weight_1 > 0, grad_1, 0.0)
        grad_2 = tl.where(weight_2 > 0, grad_2, 0.0)
    return grad_1, grad_2


@triton.jit
def logit_gradients(
    grad_1, grad_2, probs, log_sums, of_balance, of_z, first, second, kept_1, kept_2, place, here, here_2d, e, E,
    TOP_K: tl.constexpr, RENORMALISE: tl.constexpr, Z: tl.constexpr,
):  # fmt: skip
    """Gradients of the logits from those of the combine weights and of the losses."""
    first_1h = first[:, None] == e[None, :]
    p = tl.load(probs + place[:, None] * E + e[None, :], mask=here_2d & (e < E)[None, :], other=0.0)
    if TOP_K == 2:
        second_1h = second[:, None] == e[None, :]
    if TOP_K == 2 and RENORMALISE:
        p_1 = tl.where(kept_1, tl.sum(tl.where(first_1h, p, 0.0), axis=1), 0.0)
        p_2 = tl.where(kept_2, tl.sum(tl.where(second_1h, p, 0.0), axis=1), 0.0)
        floor = 1.1920929e-07
        total = tl.maximum(p_1 + p_2, floor)
        common = tl.where(p_1 + p_2 >= floor, (p_1 * grad_1 + p_2 * grad_2) / total, 0.0)
        grad_1 = tl.where(kept_1, (grad_1 - common) / total, 0.0)
        grad_2 = tl.where(kept_2, (grad_2 - common) / total, 0.0)
    grad_p = tl.where(first_1h & kept_1[:, None], grad_1[:, None], 0.0) + of_balance[None, :]
    if TOP_K == 2:
        grad_p += tl.where(second_1h & kept_2[:, None], grad_2[:, None], 0.0)
    grad_l = p * (grad_p - tl.sum(p * grad_p, axis=1)[:, None])
    if Z:
        grad_l += p * (of_z * tl.load(log_sums + place, mask=here, other=0.0))[:, None]
    return grad_l


@triton.jit(do_not_specialize=["first_expert", "T", "E", "parts", "number"])
def token_gradient_kernel(
    grad,  # [T, D] of y before dropout's gradient: what the residual passes on
    grad_y,  # [T, D] of y, or [S, D] of rows where BY_ROW
    rows,  # [S, D]: gradients of the experts' inputs
    tokens,
    count,
    row_of_slot,
    choices,
    weight_of_row,
    probs,
    log_sums,  # fp32 [T], where Z
    weight_parts,  # fp32 [parts, S]
    load,  # int64 [3, E]
    grad_losses,  # fp32 [gates, 2]: of the balance loss, of the z-loss
    b_out,
    gate_weight,
    x,
    gamma,
    means,
    scales,
    grad_logits,  # fp32 [T, BE], by place
    grad_x,  # [T, D]
    norm_parts,  # fp32 [programs, 2, D], with WHOLE
    first_expert,
    T,
    D,
    E,
    S,
    parts,
    scale_weight,
    number,
    PACKED: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALISE: tl.constexpr,
    Z: tl.constexpr,
    ACT_WEIGHTED: tl.constexpr,  # weight_parts came with the weight
    MASK: tl.constexpr,
    BY_ROW: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    WHOLE: tl.constexpr,  # through the norm, too; BD >= D, else a program takes one block of tokens
    NORM_FOLLOWS: tl.constexpr,  # grad_x gets the gradient of the norm's output; ``norm_gradient_kernel`` goes on
    BT: tl.constexpr,
    BD: tl.constexpr,
    BE: tl.constexpr,
):
    """Gradients of the gate's logits, and of the tokens: from experts, gate, norm and residual."""
    program = tl.program_id(0)
    e = tl.arange(0, BE)
    ds = tl.arange(0, BD)
    share_at = norm_parts + program.to(tl.int64) * 2 * D + ds
    firsts = tl.load(load + 2 * E + e, mask=e < E, other=0).to(tl.float32)
    here_count = count_here(count, T, PACKED)
    many = tl.maximum(tl.sum(firsts, axis=0), 1.0)
    of_balance = tl.load(grad_losses + 2 * number) * E * firsts / many / many
    of_z = 2 * tl.load(grad_losses + 2 * number + 1) / many
    of_gamma = tl.zeros((BD,), tl.float32)
    of_beta = tl.zeros((BD,), tl.float32)
    for block in tl.range(program, tl.cdiv(here_count, BT), tl.num_programs(0)):
        place = block * BT + tl.arange(0, BT)
        here = place < here_count
        here_2d = here[:, None]
        t = token_at(tokens, place, here, PACKED)
        at = t.to(tl.int64)[:, None] * D + ds[None, :]
        first = tl.load(choices + place, mask=here, other=-1)
        second = first
        row_1 = tl.load(row_of_slot + place, mask=here, other=-1)
        row_2 = row_1
        at_1 = row_1.to(tl.int64)[:, None] * D + ds[None, :]
        at_2 = at_1
        kept_1 = row_1 >= 0
        kept_2 = kept_1
        if TOP_K == 2:
            second = tl.load(choices + T + place, mask=here, other=-1)
            row_2 = tl.load(row_of_slot + T + place, mask=here, other=-1)
            kept_2 = row_2 >= 0
            at_2 = row_2.to(tl.int64)[:, None] * D + ds[None, :]

        grad_1, grad_2 = weight_gradients(
            grad_y, b_out, weight_parts, weight_of_row, first, second, row_1, row_2, kept_1, kept_2, at, at_1, at_2,
            here_2d, ds, e, first_expert, D, E, S, parts, scale_weight,
            TOP_K, ACT_WEIGHTED, MASK, BY_ROW, PRECISION, WHOLE, BT, BD, BE,
        )  # fmt: skip
        grad_l = logit_gradients(
            grad_1, grad_2, probs, log_sums, of_balance, of_z, first, second, kept_1, kept_2, place, here, here_2d, e, E,
            TOP_K, RENORMALISE, Z,
        )  # fmt: skip
        tl.store(grad_logits + place[:, None] * BE + e[None, :], grad_l, mask=here_2d)

        # of the tokens
        if WHOLE:
            fits = ds < D
            g = seen_gradient(
                rows, at_1, at_2, kept_1, kept_2, gate_weight, grad_l, grad, at, here_2d, 0, ds, e, E, D,
                TOP_K, RESIDUAL, PRECISION, WHOLE,
            )  # fmt: skip
            value, scale = normal(x, means, scales, place, at, here, fits)
            of_gamma += tl.sum(tl.where(here_2d, g * value, 0.0), axis=0)
            of_beta += tl.sum(tl.where(here_2d, g, 0.0), axis=0)
            g = through_norm(g, value, scale, gamma, ds, D)
            pass_on(g, grad, grad_x, at, 0, here, here, fits, RESIDUAL)
        else:
            for d in tl.range(0, D, BD):
                fits = ds < D - d
                g = seen_gradient(
                    rows, at_1, at_2, kept_1, kept_2, gate_weight, grad_l, grad, at, here_2d, d, ds, e, E, D,
                    TOP_K, RESIDUAL, PRECISION, WHOLE,
                )  # fmt: skip
                if NORM_FOLLOWS:
                    tl.store(grad_x + at + d, g, mask=here_2d & fits[None, :])
                else:
                    pass_on(g, grad, grad_x, at, d, here, here, fits, RESIDUAL)
    if WHOLE:
        tl.store(share_at, of_gamma, mask=ds < D)
        tl.store(share_at + D, of_beta, mask=ds < D)
    if not NORM_FOLLOWS:  # the tokens that are not here
        for begin in tl.range(here_count + program * BT, T, tl.num_programs(0) * BT):
            place = begin + tl.arange(0, BT)
            inside = place < T
            at = token_at(tokens, place, inside, PACKED).to(tl.int64)[:, None] * D + ds[None, :]
            for d in tl.range(0, D, BD):
                pass_on(tl.zeros((BT, BD), tl.float32), grad, grad_x, at, d, inside, place < 0, ds < D - d, RESIDUAL)
