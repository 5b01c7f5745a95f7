"""Rows times their expert's weights. Rows are sorted by expert, each expert's run padded to whole tiles.

Up: gather, bias, activation, combine weight; down: bias; and both on the way back. How many rows there are is read on the device:
a program takes tiles until none is left.

Where the hidden layer has room for a part of the rows, they pass in turns, and the kernels of a turn take its rows alone.

Sizes: S rows (an upper bound), N columns of a result, K summed over, D, F, E as everywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import (
    DOWN,
    EXPERT_DROPOUT,
    GELU,
    GRAD_HIDDEN,
    GRAD_INPUT,
    RELU,
    SEEDS,
    UP,
)


@triton.jit
def activate(h, ACT: tl.constexpr):
    if ACT == RELU:
        return tl.maximum(h, 0.0)
    elif ACT == GELU:
        return 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    else:
        return h * tl.sigmoid(h)


@triton.jit
def activation_slope(h, ACT: tl.constexpr):
    """The derivative of ``activate`` by h."""
    if ACT == GELU:
        return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476)) + h * tl.exp(-0.5 * h * h) * 0.3989422804014327
    else:
        s = tl.sigmoid(h)
        return s * (1.0 + h * (1.0 - s))


@triton.jit
def finish(
    acc,
    rows,
    columns,
    m,
    expert,
    out,
    kept,
    second,
    bias,
    weight_of_row,
    bias_parts,
    N,
    first_row,
    seeds,
    number,
    keep_probability,
    KIND: tl.constexpr,
    ACT: tl.constexpr,
    KEEP_H: tl.constexpr,
    DROP: tl.constexpr,
    BIAS_BY_DOT: tl.constexpr,
):
    """What follows a product, for a tile of it; returns its share of the gradient of each row's combine weight."""
    own = rows - first_row if KIND == UP or KIND == GRAD_HIDDEN else rows  # hidden layers have the rows of a turn alone
    at = own.to(tl.int64)[:, None] * N + columns[None, :]
    in_n = columns < N
    fits = in_n[None, :]
    share = tl.zeros((acc.shape[0],), tl.float32)
    value = acc
    if KIND == UP:
        weight = tl.load(weight_of_row + rows)[:, None]
        h = acc + tl.load(bias + expert * N + columns, mask=in_n, other=0.0).to(tl.float32)[None, :]
        if KEEP_H:
            tl.store(kept + at, h, mask=fits)
            h = h.to(kept.dtype.element_ty).to(tl.float32)
        value = activate(h, ACT) * weight
    elif KIND == DOWN:
        weight = tl.load(weight_of_row + rows)[:, None]
        value = acc + weight * tl.load(bias + expert * N + columns, mask=in_n, other=0.0).to(tl.float32)[None, :]
        if DROP:
            value = tl.where(
                tl.rand(tl.load(seeds + number * SEEDS + EXPERT_DROPOUT), at) < keep_probability,
                value / keep_probability,
                0.0,
            )
    elif KIND == GRAD_HIDDEN:
        weight = tl.load(weight_of_row + rows)[:, None]
        h = tl.load(kept + at, mask=fits, other=0.0).to(tl.float32)
        if ACT == RELU:  # kept is the weighted activation: positive where h is
            share += tl.sum(tl.where(fits, acc * h, 0.0), axis=1)
            value = tl.where(h > 0, acc * weight, 0.0)
        else:
            activation = activate(h, ACT)
            share += tl.sum(tl.where(fits, acc * activation, 0.0), axis=1)
            tl.store(second + at, activation * weight, mask=fits)
            value = acc * weight * activation_slope(h, ACT)
        if BIAS_BY_DOT:
            dtype = out.dtype.element_ty
            ones = tl.full((16, acc.shape[0]), 1.0, dtype)
            total = tl.sum(tl.dot(ones, value.to(dtype)), axis=0) * (1.0 / 16)
        else:
            total = tl.sum(value, axis=0)
        tl.store(bias_parts + m.to(tl.int64) * N + columns, total, mask=in_n)
    tl.store(out + at, value, mask=fits)
    return share


@triton.jit
def finish_half(
    acc, rows, begin, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, first_row, seeds, number,
    keep_probability, KIND: tl.constexpr, ACT: tl.constexpr, KEEP_H: tl.constexpr, DROP: tl.constexpr, BIAS_BY_DOT: tl.constexpr,
    PARTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """``finish`` for the columns from ``begin`` on; in two turns where PARTS is 4."""
    if PARTS == 2:
        share = finish(
            acc, rows, begin + tl.arange(0, BN), m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, first_row,
            seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT,
        )  # fmt: skip
    else:
        columns = begin + tl.arange(0, BN // 2)
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        share = finish(
            left, rows, columns, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, first_row,
            seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT,
        )  # fmt: skip
        share += finish(
            right, rows, columns + BN // 2, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, first_row,
            seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT,
        )  # fmt: skip
    return share


@triton.jit(do_not_specialize=["number", "first_expert", "experts", "first_row", "turn_rows"])
def product_kernel(
    a,  # [T, K] read by token where GATHER, else rows [S, K]
    b,  # weights of all experts: [E, N, K] where B_NK, else [E, K, N]
    bias,  # [E, N]
    out,  # [S, N]
    kept,  # [S, N]: up writes h (KEEP_H); grad_hidden reads what up kept
    second,  # [S, N]: grad_hidden writes the weighted activation where h was kept
    token_of_row,
    weight_of_row,
    expert_of_tile,
    starts,  # [E + 1]; the last one is the number of padded rows
    weight_parts,  # fp32 [tiles of N, S]: shares of the combine weights' gradients
    bias_parts,  # fp32 [tiles of rows, N]: shares of the bias' gradient
    first_expert,
    experts,
    N,
    K,
    S,
    first_row,
    turn_rows,
    seeds,
    number,
    keep_probability,
    TURNS: tl.constexpr,  # the rows of one turn: so many from first_row on, which is the hidden layer's row 0
    AGAIN: tl.constexpr,  # only where a later turn has taken the hidden layer's place
    KIND: tl.constexpr,
    ACT: tl.constexpr,
    GATHER: tl.constexpr,
    B_NK: tl.constexpr,
    KEEP_H: tl.constexpr,
    DROP: tl.constexpr,
    A_TMA: tl.constexpr,
    B_TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    PARTS: tl.constexpr,
    BIAS_BY_DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    PAD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Rows times their expert's weights. Tiles go in groups of GROUP row tiles, so that weights stay in the cache."""
    all_rows = tl.load(starts + experts)
    row_tiles = all_rows // BM
    begin = 0
    if TURNS:
        row_tiles = tl.maximum(tl.minimum(all_rows - first_row, turn_rows), 0) // BM
        if AGAIN:
            row_tiles = tl.where(all_rows > first_row + turn_rows, row_tiles, 0)
        begin = first_row
    column_tiles = tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        group = tile // (GROUP * column_tiles)
        first = group * GROUP
        size = tl.minimum(row_tiles - first, GROUP)
        inside = tile - group * GROUP * column_tiles
        m = begin // BM + first + inside % size
        n = inside // size
        expert = first_expert + tl.load(expert_of_tile + m * BM // PAD)
        rows = m * BM + tl.arange(0, BM)
        columns = n * BN + tl.arange(0, BN)
        ks = tl.arange(0, BK)
        if not A_TMA:
            if GATHER:
                token = tl.load(token_of_row + rows)
                there = (token >= 0)[:, None]
                a_at = a + token.to(tl.int64)[:, None] * K + ks[None, :]
            else:
                own = rows - begin if KIND == DOWN or KIND == GRAD_INPUT else rows
                a_at = a + own.to(tl.int64)[:, None] * K + ks[None, :]
        if not B_TMA:
            b_expert = b + expert.to(tl.int64) * N * K
            b_columns = columns if EVEN_N else tl.minimum(columns, N - 1)
            if B_NK:
                b_at = b_expert + b_columns[None, :] * K + ks[:, None]
            else:
                b_at = b_expert + ks[:, None] * N + b_columns[None, :]
        acc = tl.zeros((BM, BN), tl.float32)
        for k in tl.range(0, K, BK):
            if A_TMA:
                a_tile = a.load([m * BM - begin if KIND == DOWN or KIND == GRAD_INPUT else m * BM, k])
            elif GATHER:
                if EVEN_K:
                    a_tile = tl.load(a_at, mask=there, other=0.0)
                else:
                    a_tile = tl.load(a_at, mask=there & (ks < K - k)[None, :], other=0.0)
                a_at += BK
            else:
                if EVEN_K:
                    a_tile = tl.load(a_at)
                else:
                    a_tile = tl.load(a_at, mask=(ks < K - k)[None, :], other=0.0)
                a_at += BK
            if B_TMA:
                if B_NK:
                    b_tile = b.load([expert * N + n * BN, k]).T
                else:
                    b_tile = b.load([expert * K + k, n * BN])
            else:
                if EVEN_K:
                    b_tile = tl.load(b_at)
                else:
                    b_tile = tl.load(b_at, mask=(ks < K - k)[:, None], other=0.0)
                if B_NK:
                    b_at += BK
                else:
                    b_at += BK * N
            acc = tl.dot(a_tile, b_tile, acc, input_precision=PRECISION)

        if PARTS == 1:
            share = finish(
                acc, rows, columns, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, begin,
                seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT,
            )  # fmt: skip
        else:  # so that less is in registers at once
            left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
            share = finish_half(
                left, rows, n * BN, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, begin,
                seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT, PARTS, BM, BN // 2,
            )  # fmt: skip
            share += finish_half(
                right, rows, n * BN + BN // 2, m, expert, out, kept, second, bias, weight_of_row, bias_parts, N, begin,
                seeds, number, keep_probability, KIND, ACT, KEEP_H, DROP, BIAS_BY_DOT, PARTS, BM, BN // 2,
            )  # fmt: skip
        if KIND == GRAD_HIDDEN:
            tl.store(weight_parts + n * S + rows, share)
