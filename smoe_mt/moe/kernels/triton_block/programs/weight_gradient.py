"""Gradients of the experts' matrices: outer products summed over an expert's rows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["first_expert", "first_added", "experts", "first_row", "turn_rows"])
def weight_gradient_kernel(
    left,  # [T, M] read by token where GATHER_LEFT, else rows [S, M]
    right,  # [T, N] where not GATHER_LEFT and GATHER_RIGHT, else rows [S, N]
    out,  # [E, M, N]
    token_of_row,
    starts,
    load,  # int64 [3, experts]; the second row is how many rows each has
    first_expert,
    first_added,  # experts from here on: add to what is there
    experts,
    M,
    N,
    first_row,
    turn_rows,
    TURNS: tl.constexpr,  # the rows of one turn: as in ``product_kernel``; later turns come first
    GATHER_LEFT: tl.constexpr,
    GATHER_RIGHT: tl.constexpr,
    LEFT_TMA: tl.constexpr,
    RIGHT_TMA: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """For each expert the sum over its rows of left^T right. Rows of padding hold zeros on one side at least."""
    begin = 0
    if TURNS:
        all_rows = tl.load(starts + experts)
        if (first_row > 0) & (all_rows <= first_row):
            return
        first_added = tl.where(all_rows > first_row + turn_rows, 0, first_added)
        begin = first_row
    m_tiles = tl.cdiv(M, BM)
    n_tiles = tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), experts * m_tiles * n_tiles, tl.num_programs(0)):
        e = tile // (m_tiles * n_tiles)
        of_expert = tile - e * m_tiles * n_tiles
        group = of_expert // (GROUP * n_tiles)
        first = group * GROUP
        size = tl.minimum(m_tiles - first, GROUP)
        inside = of_expert - group * GROUP * n_tiles
        m = first + inside % size
        n = inside // size
        start = tl.load(starts + e)
        count = tl.load(load + experts + e).to(tl.int32)
        if TURNS:
            end = tl.minimum(start + count, first_row + turn_rows)
            start = tl.maximum(start, first_row)
            count = end - start
        ms = m * BM + tl.arange(0, BM)
        ns = n * BN + tl.arange(0, BN)
        ks = tl.arange(0, BK)
        acc = tl.zeros((BM, BN), tl.float32)
        for k in tl.range(0, count, BK):
            rows = start + k + ks
            # The hidden layer has the rows of the turn alone: the left side where the right one is gathered, else the right one.
            left_rows = rows - begin if GATHER_RIGHT else rows
            right_rows = rows if GATHER_RIGHT else rows - begin
            if GATHER_LEFT or GATHER_RIGHT:
                token = tl.load(token_of_row + rows)
                there = (token >= 0)[:, None]
                token = token.to(tl.int64)[:, None]
            if LEFT_TMA:
                left_tile = left.load([start + k - begin if GATHER_RIGHT else start + k, m * BM])
            elif GATHER_LEFT:
                if EVEN_M:
                    left_tile = tl.load(left + token * M + ms[None, :], mask=there, other=0.0)
                else:
                    left_tile = tl.load(left + token * M + ms[None, :], mask=there & (ms < M)[None, :], other=0.0)
            else:
                left_at = left + left_rows.to(tl.int64)[:, None] * M + ms[None, :]
                if EVEN_M:
                    left_tile = tl.load(left_at)
                else:
                    left_tile = tl.load(left_at, mask=(ms < M)[None, :], other=0.0)
            if RIGHT_TMA:
                right_tile = right.load([start + k if GATHER_RIGHT else start + k - begin, n * BN])
            elif GATHER_RIGHT:
                if EVEN_N:
                    right_tile = tl.load(right + token * N + ns[None, :], mask=there, other=0.0)
                else:
                    right_tile = tl.load(right + token * N + ns[None, :], mask=there & (ns < N)[None, :], other=0.0)
            else:
                right_at = right + right_rows.to(tl.int64)[:, None] * N + ns[None, :]
                if EVEN_N:
                    right_tile = tl.load(right_at)
                else:
                    right_tile = tl.load(right_at, mask=(ns < N)[None, :], other=0.0)
            acc = tl.dot(tl.trans(left_tile), right_tile, acc, input_precision=PRECISION)
        at = (first_expert + e).to(tl.int64) * M * N + ms.to(tl.int64)[:, None] * N + ns[None, :]
        fits = (ms < M)[:, None] & (ns < N)[None, :]
        if first_expert + e >= first_added:
            acc += tl.load(out + at, mask=fits, other=0.0).to(tl.float32)
        tl.store(out + at, acc, mask=fits)
