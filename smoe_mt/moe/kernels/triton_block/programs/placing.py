"""A row for each slot, counted on the device.

All first choices are placed before all second choices, in token order, as ``dispatch`` does it. A block of tokens counts its
choices (``gating``), and each block adds up the counts of those before it: no atomics, the same result every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import MASKED_SLOTS, NO_CAPACITY, RELEASE, SEEDS
from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at


@triton.jit
def pick(matrix_1h, values):
    """values[e] of the one expert that each row of matrix_1h marks; 0 where it marks none."""
    return tl.sum(tl.where(matrix_1h, values[None, :], 0), axis=1)


@triton.jit
def rank(matrix_1h):
    """How many rows before each one mark the same expert."""
    return tl.sum(tl.where(matrix_1h, tl.cumsum(matrix_1h.to(tl.int32), axis=0), 0), axis=1) - 1


@triton.jit(do_not_specialize=["number", "T", "E", "capacity_above", "capacity_below"])
def place_kernel(
    tokens,
    count,
    choices,  # int32 [K, T], by place
    probs,  # fp32 [T, E], by place
    counts,
    sums,
    row_of_slot,  # int32 [K, T], by place, -1: not served
    token_of_row,  # int32 [S], -1: padding
    weight_of_row,  # fp32 [S]
    expert_of_tile,  # int32 [S / PAD]
    starts,  # int32 [E + 1]
    load,  # int64 [3, E]: asked, served, first choices
    losses,  # fp32 [gates, 2]: balance, and z where Z, else 0
    entropy,  # fp32 [gates], the mean
    seeds,
    number,
    T,
    E,
    capacity_above,  # the capacity factor is above / below
    capacity_below,
    drop_weight,  # probability of masking a slot in training
    scale_weight,  # factor on all weights, in evaluation
    PACKED: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALISE: tl.constexpr,
    Z: tl.constexpr,
    CAPACITY: tl.constexpr,
    MASK: tl.constexpr,
    PAD: tl.constexpr,
    BB: tl.constexpr,
    BT: tl.constexpr,
    BE: tl.constexpr,
):
    block = tl.program_id(0)
    here_count = count_here(count, T, PACKED)
    blocks = tl.cdiv(here_count, BT)
    programs = tl.maximum(blocks, 1)
    if block >= programs:
        return
    e = tl.arange(0, BE)
    before_1 = tl.zeros((BE,), tl.int32)
    before_2 = tl.zeros((BE,), tl.int32)
    all_1 = tl.zeros((BE,), tl.int32)
    all_2 = tl.zeros((BE,), tl.int32)
    for b in tl.range(0, blocks, BB):
        those = b + tl.arange(0, BB)
        at = counts + those[:, None] * (TOP_K * BE) + e[None, :]
        known = (those < blocks)[:, None]
        earlier = (those < block)[:, None]
        some = tl.load(at, mask=known, other=0)
        all_1 += tl.sum(some, axis=0)
        before_1 += tl.sum(tl.where(earlier, some, 0), axis=0)
        if TOP_K == 2:
            some = tl.load(at + BE, mask=known, other=0)
            all_2 += tl.sum(some, axis=0)
            before_2 += tl.sum(tl.where(earlier, some, 0), axis=0)
    asked = all_1 + all_2
    served = asked
    if CAPACITY != NO_CAPACITY:  # as gating.slot_capacity, in integers
        share = here_count.to(tl.int64) * capacity_above
        below = capacity_below * E
        if CAPACITY == RELEASE:
            share = ((here_count + E - 1) // E).to(tl.int64) * capacity_above
            below = capacity_below
        served = tl.minimum(asked.to(tl.int64), (share + below - 1) // below).to(tl.int32)
    padded = (served + PAD - 1) // PAD * PAD
    ends = tl.cumsum(padded, axis=0)
    start = ends - padded

    place = block * BT + tl.arange(0, BT)
    inside = place < here_count
    t = token_at(tokens, place, inside, PACKED)
    first = tl.load(choices + place, mask=inside, other=-1)
    first_1h = first[:, None] == e[None, :]
    nth = pick(first_1h, before_1) + rank(first_1h)
    kept_1 = inside & (nth < pick(first_1h, served))
    row_1 = pick(first_1h, start) + nth
    p_1 = tl.load(probs + place * E + first, mask=inside, other=0.0)
    weight_1 = tl.where(kept_1, p_1, 0.0)
    tl.store(row_of_slot + place, tl.where(kept_1, row_1, -1), mask=inside)
    tl.store(token_of_row + row_1, t, mask=kept_1)
    if TOP_K == 2:
        second = tl.load(choices + T + place, mask=inside, other=-1)
        second_1h = second[:, None] == e[None, :]
        nth = pick(second_1h, all_1 + before_2) + rank(second_1h)
        kept_2 = inside & (nth < pick(second_1h, served))
        row_2 = pick(second_1h, start) + nth
        p_2 = tl.load(probs + place * E + second, mask=inside, other=0.0)
        weight_2 = tl.where(kept_2, p_2, 0.0)
        if RENORMALISE:
            total = tl.maximum(weight_1 + weight_2, 1.1920929e-07)
            weight_1 = weight_1 / total
            weight_2 = weight_2 / total
        if MASK:
            weight_2 = tl.where(
                tl.rand(tl.load(seeds + number * SEEDS + MASKED_SLOTS), T + t) >= drop_weight, weight_2, 0.0
            )
        tl.store(row_of_slot + T + place, tl.where(kept_2, row_2, -1), mask=inside)
        tl.store(token_of_row + row_2, t, mask=kept_2)
        tl.store(weight_of_row + row_2, weight_2 * scale_weight, mask=kept_2)
    if MASK:
        weight_1 = tl.where(tl.rand(tl.load(seeds + number * SEEDS + MASKED_SLOTS), t) >= drop_weight, weight_1, 0.0)
    tl.store(weight_of_row + row_1, weight_1 * scale_weight, mask=kept_1)

    for expert in tl.range(block, E, programs):
        this = e == expert
        from_row = tl.sum(tl.where(this, start + served, 0), axis=0)
        to_row = tl.sum(tl.where(this, ends, 0), axis=0)
        rows = from_row + tl.arange(0, PAD)
        tl.store(token_of_row + rows, -1, mask=rows < to_row)
        tl.store(weight_of_row + rows, 0.0, mask=rows < to_row)
        from_tile = tl.sum(tl.where(this, start, 0), axis=0) // PAD
        for tile in tl.range(from_tile, to_row // PAD, 32):
            tiles = tile + tl.arange(0, 32)
            tl.store(expert_of_tile + tiles, expert, mask=tiles < to_row // PAD)
    if block == 0:
        seen = e < E
        tl.store(starts + e, start, mask=seen)
        tl.store(starts + E, tl.sum(padded, axis=0))
        tl.store(load + e, asked.to(tl.int64), mask=seen)
        tl.store(load + E + e, served.to(tl.int64), mask=seen)
        tl.store(load + 2 * E + e, all_1.to(tl.int64), mask=seen)
        mass = tl.zeros((BE,), tl.float32)
        disorder = tl.zeros((BB,), tl.float32)
        squares = tl.zeros((BB,), tl.float32)
        for b in tl.range(0, blocks, BB):
            those = b + tl.arange(0, BB)
            at = sums + those * (BE + 2)
            mass += tl.sum(tl.load(at[:, None] + e[None, :], mask=(those < blocks)[:, None], other=0.0), axis=0)
            disorder += tl.load(at + BE, mask=those < blocks, other=0.0)
            if Z:
                squares += tl.load(at + BE + 1, mask=those < blocks, other=0.0)
        many = tl.maximum(here_count, 1).to(tl.float32)
        tl.store(losses + 2 * number, E * tl.sum(all_1.to(tl.float32) / many * (mass / many), axis=0))
        tl.store(losses + 2 * number + 1, tl.sum(squares, axis=0) / many)
        tl.store(entropy + number, tl.sum(disorder, axis=0) / many)
