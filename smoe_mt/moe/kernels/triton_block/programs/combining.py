"""The rows of a token summed, with dropout and residual; and the gradient of its rows."""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import DROPOUT_SEED, EXPERT_DROPOUT, NO_RESIDUAL, SEEDS
from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at


@triton.jit(do_not_specialize=["number", "first_expert", "gates", "T"])
def combine_kernel(
    rows,  # [S, D]
    tokens,
    count,
    row_of_slot,  # int32 [K, T], by place
    choices,  # int32 [K, T], by place
    x,  # the residual, [T, D]
    out,  # [T, D]: those who leave
    later,  # [gates - 1, T, D]: the inputs of later gates
    where,  # int32 [T], written: the gate of each token
    visits,  # int64 [T]
    next_gate,  # int64 [all experts]
    seeds,
    number,
    first_expert,
    gates,
    T,
    D,
    keep_probability,
    PACKED: tl.constexpr,
    TOP_K: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STRATA: tl.constexpr,
    OPENS: tl.constexpr,  # the first gate: what is not here is padding
    DROPOUT: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    """y = sum of a token's rows; x + y goes where the token goes: to the input of a later gate, or out."""
    place = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    here_count = count_here(count, T, PACKED)
    last = T if OPENS else here_count
    if tl.program_id(0) * BT >= last:
        return
    inside = place < last
    here = place < here_count
    fits = d < D
    t = token_at(tokens, place, inside, PACKED)
    choice = tl.load(choices + place, mask=here, other=-1)
    at = t.to(tl.int64)[:, None] * D + d[None, :]
    row = tl.load(row_of_slot + place, mask=here, other=-1)
    y = tl.load(
        rows + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row >= 0)[:, None] & fits[None, :], other=0.0
    ).to(tl.float32)
    if TOP_K == 2:
        row = tl.load(row_of_slot + T + place, mask=here, other=-1)
        y += tl.load(
            rows + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row >= 0)[:, None] & fits[None, :], other=0.0
        ).to(tl.float32)
    if DROPOUT:
        y = tl.where(
            tl.rand(tl.load(seeds + number * SEEDS + DROPOUT_SEED), at) < keep_probability, y / keep_probability, 0.0
        )
    if RESIDUAL != NO_RESIDUAL:
        given = tl.load(x + at, mask=inside[:, None] & fits[None, :], other=0.0)
        y = tl.where(here[:, None], given.to(tl.float32) + y, given.to(tl.float32))
        if OPENS:
            tl.store(out + at, given, mask=(inside & ~here)[:, None] & fits[None, :])
    if STRATA:
        target = tl.load(next_gate + first_expert + choice, mask=here, other=0).to(tl.int32)
        leaves = target >= gates
        tl.store(out + at, y, mask=(here & leaves)[:, None] & fits[None, :])
        goes = here & (target < gates)
        to = later + (target - 1).to(tl.int64)[:, None] * T * D + at
        tl.store(to, y, mask=goes[:, None] & fits[None, :])
        if tl.program_id(1) == 0:
            if OPENS:
                tl.store(where + t, tl.where(here, target, gates), mask=inside)
                tl.store(visits + t, here.to(tl.int64), mask=inside)
            else:
                tl.store(where + t, target, mask=here)
                tl.store(visits + t, tl.load(visits + t, mask=here, other=0) + 1, mask=here)
    else:
        tl.store(out + at, y, mask=inside[:, None] & fits[None, :])
        if tl.program_id(1) == 0:
            tl.store(visits + t, here.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["number", "T"])
def dropout_gradient_kernel(
    grad, tokens, count, seeds, number, out, T, D, keep_probability,
    PACKED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient of y from that of its dropout, for the tokens at the gate."""
    place = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    here_count = count_here(count, T, PACKED)
    if tl.program_id(0) * BT >= here_count:
        return
    here = place < here_count
    t = token_at(tokens, place, here, PACKED)
    at = t.to(tl.int64)[:, None] * D + d[None, :]
    mask = here[:, None] & (d < D)[None, :]
    value = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    value = tl.where(
        tl.rand(tl.load(seeds + number * SEEDS + DROPOUT_SEED), at) < keep_probability, value / keep_probability, 0.0
    )
    tl.store(out + at, value, mask=mask)


@triton.jit(do_not_specialize=["number", "experts"])
def row_gradient_kernel(
    grad, token_of_row, starts, seeds, number, out, experts, D, keep_probability, BT: tl.constexpr, BD: tl.constexpr
):
    """The gradient of each row from that of its token, through the dropout on experts' outputs."""
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    rows = tl.load(starts + experts)
    if tl.program_id(0) * BT >= rows:
        return
    there = row < rows
    token = tl.load(token_of_row + row, mask=there, other=-1)
    value = tl.load(
        grad + token.to(tl.int64)[:, None] * D + d[None, :], mask=(token >= 0)[:, None] & (d < D)[None, :], other=0.0
    ).to(tl.float32)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    value = tl.where(
        tl.rand(tl.load(seeds + number * SEEDS + EXPERT_DROPOUT), at) < keep_probability, value / keep_probability, 0.0
    )
    tl.store(out + at, value, mask=there[:, None] & (d < D)[None, :])
