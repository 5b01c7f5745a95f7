"""Gradients that sum over tokens: shares of programs, and their sums in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at
from smoe_mt.moe.kernels.triton_block.programs.token_gradient import dot_32


@triton.jit(do_not_specialize=["T", "E", "splits"])
def gate_gradient_kernel(
    tokens,
    count,
    grad_logits,  # fp32 [T, BE], by place
    x,  # [T, D] what the gate saw
    grad_y,  # [T, D], or rows where BY_ROW
    row_of_slot,
    choices,
    weight_of_row,
    parts,  # fp32 [splits, 2, E, D]: of the gate's weight, of b_out
    logit_parts,  # fp32 [splits, BE]: of the gate's bias, where BIAS
    T,
    D,
    E,
    splits,
    PACKED: tl.constexpr,
    TOP_K: tl.constexpr,
    BIAS: tl.constexpr,
    BY_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BE: tl.constexpr,
):
    """Products that sum over tokens, a share of the tokens in each split."""
    split = tl.program_id(1)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    fits = (d < D)[None, :]
    e = tl.arange(0, BE)
    here_count = count_here(count, T, PACKED)
    share = tl.cdiv(tl.cdiv(here_count, BT), splits) * BT
    of_gate = tl.zeros((BE, BD), tl.float32)
    of_bias = tl.zeros((BE, BD), tl.float32)
    of_logits = tl.zeros((BE,), tl.float32)
    for begin in tl.range(split * share, tl.minimum(split * share + share, here_count), BT):
        place = begin + tl.arange(0, BT)
        inside = place < here_count
        here = inside[:, None]
        t = token_at(tokens, place, inside, PACKED)
        at = t.to(tl.int64)[:, None] * D + d[None, :]
        seen = tl.load(x + at, mask=here & fits, other=0.0)
        logits = tl.load(grad_logits + place[:, None] * BE + e[None, :], mask=here, other=0.0)
        if BIAS:
            of_logits += tl.sum(logits, axis=0)
        of_gate = dot_32(tl.trans(logits), seen, of_gate, PRECISION)
        for k in tl.static_range(0, TOP_K):
            choice = tl.load(choices + k * T + place, mask=inside, other=-1)
            row = tl.load(row_of_slot + k * T + place, mask=inside, other=-1)
            weight = tl.load(weight_of_row + row, mask=row >= 0, other=0.0)
            weights = tl.where(choice[:, None] == e[None, :], weight[:, None], 0.0)
            if BY_ROW:
                g = tl.load(
                    grad_y + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row >= 0)[:, None] & fits, other=0.0
                )
                of_bias = dot_32(tl.trans(weights), g, of_bias, PRECISION)
            elif k == 0:
                all_weights = weights
            else:
                all_weights += weights
        if not BY_ROW:
            g = tl.load(grad_y + at, mask=here & fits, other=0.0)
            of_bias = dot_32(tl.trans(all_weights), g, of_bias, PRECISION)
    to = parts + split * 2 * E * D + e[:, None] * D + d[None, :]
    seen_e = (e < E)[:, None] & fits
    tl.store(to, of_gate, mask=seen_e)
    tl.store(to + E * D, of_bias, mask=seen_e)
    if BIAS:
        tl.store(logit_parts + split * BE + e, of_logits, mask=e < tl.where(tl.program_id(0) == 0, E, 0))


@triton.jit(do_not_specialize=["first_expert", "first_added", "E", "splits", "norm_blocks"])
def reduce_kernel(
    gate_parts,  # fp32 [splits, 2, E, D]
    logit_parts,  # fp32 [splits, BE]; splits <= BR
    bias_parts,  # fp32 [tiles of rows, F]
    norm_parts,  # fp32 [blocks, 2, D]
    starts,
    grad_gate,  # [E, D]
    grad_gate_bias,  # [E], where BIAS
    grad_b_out,  # [all experts, D]
    grad_b_in,  # [all experts, F]
    grad_norm,  # [2, D]
    first_expert,
    first_added,
    E,
    D,
    F,
    splits,
    norm_blocks,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BM: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """The shares of each small gradient summed, always in the same order."""
    work = tl.program_id(0)
    d_tiles = tl.cdiv(D, BC)
    f_tiles = tl.cdiv(F, BC)
    r = tl.arange(0, BR)
    c = tl.arange(0, BC)
    acc = tl.zeros((BR, BC), tl.float32)
    if work < E * f_tiles:
        e = work // f_tiles
        column = work % f_tiles * BC + c
        begin = tl.load(starts + e) // BM
        end = tl.load(starts + e + 1) // BM
        for tile in tl.range(begin, end, BR):
            at = bias_parts + (tile + r).to(tl.int64)[:, None] * F + column[None, :]
            acc += tl.load(at, mask=(tile + r < end)[:, None] & (column < F)[None, :], other=0.0)
        total = tl.sum(acc, axis=0)
        to = grad_b_in + (first_expert + e) * F + column
        if first_expert + e >= first_added:
            total += tl.load(to, mask=column < F, other=0.0).to(tl.float32)
        tl.store(to, total, mask=column < F)
    elif work < E * (f_tiles + 2 * d_tiles):
        number = work - E * f_tiles
        which = number // (E * d_tiles)
        e = number % (E * d_tiles) // d_tiles
        column = number % d_tiles * BC + c
        for split in tl.range(0, splits, BR):
            at = gate_parts + ((split + r)[:, None] * 2 + which) * E * D + e * D + column[None, :]
            acc += tl.load(at, mask=(split + r < splits)[:, None] & (column < D)[None, :], other=0.0)
        total = tl.sum(acc, axis=0)
        if which == 0:
            tl.store(grad_gate + e * D + column, total, mask=column < D)
            if BIAS:
                shares = tl.load(logit_parts + r * BE + e, mask=r < splits, other=0.0)
                tl.store(grad_gate_bias + e, tl.sum(shares, axis=0), mask=number % d_tiles == 0)
        else:
            to = grad_b_out + (first_expert + e) * D + column
            if first_expert + e >= first_added:
                total += tl.load(to, mask=column < D, other=0.0).to(tl.float32)
            tl.store(to, total, mask=column < D)
    elif NORM:
        number = work - E * (f_tiles + 2 * d_tiles)
        which = number // d_tiles
        column = number % d_tiles * BC + c
        for block in tl.range(0, norm_blocks, BR):
            at = norm_parts + ((block + r).to(tl.int64)[:, None] * 2 + which) * D + column[None, :]
            acc += tl.load(at, mask=(block + r < norm_blocks)[:, None] & (column < D)[None, :], other=0.0)
        tl.store(grad_norm + which * D + column, tl.sum(acc, axis=0), mask=column < D)
