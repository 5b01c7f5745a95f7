"""Routing in Triton: from tokens to rows and back, with everything that is counted kept on the device.

``route_kernel``     norm, gate, softmax, choices; counts for each block of tokens
``place_kernel``     a row for each slot; what the gate's load, balance loss and entropy are
``combine_kernel``   the rows of a token summed; residual, dropout, and where the token goes next
``token_gradient_kernel``, ``norm_gradient_kernel``, ``gate_gradient_kernel``, ``reduce_kernel``   the way back

All first choices are placed before all second choices, in token order, as ``dispatch`` does it. A block of tokens counts
its choices, and each block adds up the counts of those before it: no atomics, the same result every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

EVERYWHERE, UNPADDED, AT_GATE = (tl.constexpr(i) for i in range(3))
NO_RESIDUAL, INPUT, NORMED = (tl.constexpr(i) for i in range(3))
# Seeds of a gate, one for each thing that is drawn.
SEEDS = tl.constexpr(4)
SECOND_CHOICE, MASKED_SLOTS, EXPERT_DROPOUT, DROPOUT_SEED = (tl.constexpr(i) for i in range(4))
NO_CAPACITY, PAPER, RELEASE = (tl.constexpr(i) for i in range(3))


@triton.jit
def is_here(where, t, inside, gate, HERE: tl.constexpr):
    """Which tokens are at the gate: all, those that are no padding, or those whose turn it is."""
    if HERE == UNPADDED:
        return inside & (tl.load(where + t, mask=inside, other=1) == 0)
    elif HERE == AT_GATE:
        return inside & (tl.load(where + t, mask=inside, other=-1) == gate)
    else:
        return inside


@triton.jit(do_not_specialize=["gate", "T", "E"])
def route_kernel(
    x,  # [T, D]
    where,
    gamma,
    beta,
    gate_weight,  # [E, D]
    normed,  # [T, D], written where NORM
    mean_out,
    scale_out,  # fp32 [T]
    probs,  # fp32 [T, E]
    choices,  # int32 [K, T], -1: not here
    counts,  # int32 [blocks, K, BE]
    sums,  # fp32 [blocks, BE + 1]: probabilities summed, and entropy
    seeds,
    gate,
    T,
    D,
    E,
    epsilon,
    HERE: tl.constexpr,
    NORM: tl.constexpr,
    TOP_K: tl.constexpr,
    GUMBEL: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BE: tl.constexpr,
):
    block = tl.program_id(0)
    t = block * BT + tl.arange(0, BT)
    inside = t < T
    here = is_here(where, t, inside, gate, HERE)
    ds = tl.arange(0, BD)
    e = tl.arange(0, BE)
    x_at = x + t.to(tl.int64)[:, None] * D + ds[None, :]
    here_2d = here[:, None]
    mean = tl.zeros((BT,), tl.float32)
    scale = tl.zeros((BT,), tl.float32)
    if NORM:
        # Sums of the distance from the row's first value: no loss where the mean is far from 0.
        origin = tl.load(x + t.to(tl.int64) * D, mask=here, other=0.0).to(tl.float32)
        total = tl.zeros((BT,), tl.float32)
        squares = tl.zeros((BT,), tl.float32)
        for d in tl.range(0, D, BD):
            mask = here_2d if EVEN else here_2d & (ds < D - d)[None, :]
            value = tl.load(x_at + d, mask=mask, other=0.0).to(tl.float32) - origin[:, None]
            value = tl.where(mask, value, 0.0)
            total += tl.sum(value, axis=1)
            squares += tl.sum(value * value, axis=1)
        shift = total / D
        mean = origin + shift
        scale = 1.0 / tl.sqrt(tl.maximum(squares / D - shift * shift, 0.0) + epsilon)
        tl.store(mean_out + t, mean, mask=here)
        tl.store(scale_out + t, scale, mask=here)
    logits = tl.zeros((BT, BE), tl.float32)
    w_at = gate_weight + e[None, :] * D + ds[:, None]
    for d in tl.range(0, D, BD):
        mask = here_2d if EVEN else here_2d & (ds < D - d)[None, :]
        value = tl.load(x_at + d, mask=mask, other=0.0)
        if NORM:
            g = tl.load(gamma + d + ds, mask=ds < D - d, other=0.0).to(tl.float32)
            b = tl.load(beta + d + ds, mask=ds < D - d, other=0.0).to(tl.float32)
            value = ((value.to(tl.float32) - mean[:, None]) * scale[:, None] * g[None, :] + b[None, :]).to(value.dtype)
            tl.store(normed + t.to(tl.int64)[:, None] * D + d + ds[None, :], value, mask=mask)
            value = tl.where(mask, value, 0.0).to(value.dtype)
        w = tl.load(w_at + d, mask=(e < E)[None, :] & (ds < D - d)[:, None], other=0.0)
        if value.dtype == w.dtype:
            logits = tl.dot(value, w, logits, input_precision=PRECISION)
        else:
            logits = tl.dot(value.to(tl.float32), w.to(tl.float32), logits, input_precision="ieee")
    logits = tl.where((e < E)[None, :], logits, float("-inf"))
    odds = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    p = odds / tl.sum(odds, axis=1)[:, None]
    here_e = here_2d & (e < E)[None, :]
    tl.store(probs + t[:, None] * E + e[None, :], p, mask=here_e)
    # Where nothing is finite a choice must still be an expert.
    first = tl.minimum(tl.argmax(p, axis=1), E - 1)
    first_1h = (first[:, None] == e[None, :]) & here_2d
    tl.store(choices + t, tl.where(here, first, -1), mask=inside)
    tl.store(counts + block * TOP_K * BE + e, tl.sum(first_1h.to(tl.int32), axis=0))
    if TOP_K == 2:
        left = p
        if GUMBEL:
            # G / Exp(1) has the order of log G + Gumbel noise.
            chance = tl.rand(tl.load(seeds + gate * SEEDS + SECOND_CHOICE), t[:, None] * BE + e[None, :])
            left = p / tl.maximum(-tl.log(1.0 - chance), 1e-30)
        left = tl.where((first[:, None] == e[None, :]) | (e >= E)[None, :], -1.0, left)
        second = tl.minimum(tl.argmax(left, axis=1), E - 1)
        second_1h = (second[:, None] == e[None, :]) & here_2d
        tl.store(choices + T + t, tl.where(here, second, -1), mask=inside)
        tl.store(counts + (block * TOP_K + 1) * BE + e, tl.sum(second_1h.to(tl.int32), axis=0))
    p = tl.where(here_e, p, 0.0)
    tl.store(sums + block * (BE + 1) + e, tl.sum(p, axis=0))
    entropy = tl.sum(tl.sum(-p * tl.log(tl.maximum(p, 1e-37)), axis=1), axis=0)
    tl.store(sums + block * (BE + 1) + BE, entropy)


@triton.jit
def pick(matrix_1h, values):
    """values[e] of the one expert that each row of matrix_1h marks; 0 where it marks none."""
    return tl.sum(tl.where(matrix_1h, values[None, :], 0), axis=1)


@triton.jit
def rank(matrix_1h):
    """How many rows before each one mark the same expert."""
    return tl.sum(tl.where(matrix_1h, tl.cumsum(matrix_1h.to(tl.int32), axis=0), 0), axis=1) - 1


@triton.jit(do_not_specialize=["number", "T", "E", "blocks", "capacity_above", "capacity_below"])
def place_kernel(
    choices,  # int32 [K, T]
    probs,  # fp32 [T, E]
    counts,
    sums,
    row_of_slot,  # int32 [K, T], -1: not served
    token_of_row,  # int32 [S], -1: padding
    weight_of_row,  # fp32 [S]
    expert_of_tile,  # int32 [S / PAD]
    starts,  # int32 [E + 1]
    load,  # int64 [3, E]: asked, served, first choices
    balance,  # fp32 [1]
    entropy,  # fp32 [1], the mean
    seeds,
    number,
    T,
    E,
    blocks,
    capacity_above,  # the capacity factor is above / below
    capacity_below,
    drop_weight,  # probability of masking a slot in training
    scale_weight,  # factor on all weights, in evaluation
    TOP_K: tl.constexpr,
    CAPACITY: tl.constexpr,
    MASK: tl.constexpr,
    PAD: tl.constexpr,
    BB: tl.constexpr,
    BT: tl.constexpr,
    BE: tl.constexpr,
):
    block = tl.program_id(0)
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
    tokens = tl.sum(all_1, axis=0)
    asked = all_1 + all_2
    served = asked
    if CAPACITY != NO_CAPACITY:  # as gating.slot_capacity, in integers
        share = tokens.to(tl.int64) * capacity_above
        below = capacity_below * E
        if CAPACITY == RELEASE:
            share = ((tokens + E - 1) // E).to(tl.int64) * capacity_above
            below = capacity_below
        served = tl.minimum(asked.to(tl.int64), (share + below - 1) // below).to(tl.int32)
    padded = (served + PAD - 1) // PAD * PAD
    ends = tl.cumsum(padded, axis=0)
    start = ends - padded

    t = block * BT + tl.arange(0, BT)
    inside = t < T
    first = tl.load(choices + t, mask=inside, other=-1)
    first_1h = first[:, None] == e[None, :]
    place = pick(first_1h, before_1) + rank(first_1h)
    kept_1 = (first >= 0) & (place < pick(first_1h, served))
    row_1 = pick(first_1h, start) + place
    p_1 = tl.load(probs + t * E + first, mask=first >= 0, other=0.0)
    weight_1 = tl.where(kept_1, p_1, 0.0)
    tl.store(row_of_slot + t, tl.where(kept_1, row_1, -1), mask=inside)
    tl.store(token_of_row + row_1, t, mask=kept_1)
    if TOP_K == 2:
        second = tl.load(choices + T + t, mask=inside, other=-1)
        second_1h = second[:, None] == e[None, :]
        place = pick(second_1h, all_1 + before_2) + rank(second_1h)
        kept_2 = (second >= 0) & (place < pick(second_1h, served))
        row_2 = pick(second_1h, start) + place
        p_2 = tl.load(probs + t * E + second, mask=second >= 0, other=0.0)
        weight_2 = tl.where(kept_2, p_2, 0.0)
        total = tl.maximum(weight_1 + weight_2, 1.1920929e-07)
        weight_1 = weight_1 / total
        weight_2 = weight_2 / total
        if MASK:
            weight_2 = tl.where(
                tl.rand(tl.load(seeds + number * SEEDS + MASKED_SLOTS), T + t) >= drop_weight, weight_2, 0.0
            )
        tl.store(row_of_slot + T + t, tl.where(kept_2, row_2, -1), mask=inside)
        tl.store(token_of_row + row_2, t, mask=kept_2)
        tl.store(weight_of_row + row_2, weight_2 * scale_weight, mask=kept_2)
    if MASK:
        weight_1 = tl.where(tl.rand(tl.load(seeds + number * SEEDS + MASKED_SLOTS), t) >= drop_weight, weight_1, 0.0)
    tl.store(weight_of_row + row_1, weight_1 * scale_weight, mask=kept_1)

    for expert in tl.range(block, E, tl.num_programs(0)):
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
        for b in tl.range(0, blocks, BB):
            those = b + tl.arange(0, BB)
            at = sums + those[:, None] * (BE + 1) + e[None, :]
            mass += tl.sum(tl.load(at, mask=(those < blocks)[:, None], other=0.0), axis=0)
            disorder += tl.load(sums + those * (BE + 1) + BE, mask=those < blocks, other=0.0)
        count = tl.maximum(tokens, 1).to(tl.float32)
        tl.store(balance + number, E * tl.sum(all_1.to(tl.float32) / count * (mass / count), axis=0))
        tl.store(entropy + number, tl.sum(disorder, axis=0) / count)


@triton.jit(do_not_specialize=["number", "first_expert", "gates", "T"])
def combine_kernel(
    rows,  # [S, D]
    row_of_slot,  # int32 [K, T]
    choices,  # int32 [K, T]
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
    TOP_K: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STRATA: tl.constexpr,
    OPENS: tl.constexpr,  # the first gate: what is not here is padding
    DROPOUT: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    """y = sum of a token's rows; x + y goes where the token goes: to the input of a later gate, or out."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = t < T
    fits = d < D
    choice = tl.load(choices + t, mask=inside, other=-1)
    here = choice >= 0
    at = t.to(tl.int64)[:, None] * D + d[None, :]
    row = tl.load(row_of_slot + t, mask=inside, other=-1)
    y = tl.load(
        rows + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row >= 0)[:, None] & fits[None, :], other=0.0
    ).to(tl.float32)
    if TOP_K == 2:
        row = tl.load(row_of_slot + T + t, mask=inside, other=-1)
        y += tl.load(
            rows + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row >= 0)[:, None] & fits[None, :], other=0.0
        ).to(tl.float32)
    if DROPOUT:
        y = tl.where(
            tl.rand(tl.load(seeds + number * SEEDS + DROPOUT_SEED), at) < keep_probability, y / keep_probability, 0.0
        )
    if RESIDUAL != NO_RESIDUAL:
        read = inside if OPENS else here
        given = tl.load(x + at, mask=read[:, None] & fits[None, :], other=0.0)
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
    grad, choices, seeds, number, out, T, D, keep_probability, BT: tl.constexpr, BD: tl.constexpr
):
    """The gradient of y from that of its dropout, for the tokens at the gate."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    here = tl.load(choices + t, mask=t < T, other=-1) >= 0
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
    there = row < tl.load(starts + experts)
    token = tl.load(token_of_row + row, mask=there, other=-1)
    value = tl.load(
        grad + token.to(tl.int64)[:, None] * D + d[None, :], mask=(token >= 0)[:, None] & (d < D)[None, :], other=0.0
    ).to(tl.float32)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    value = tl.where(
        tl.rand(tl.load(seeds + number * SEEDS + EXPERT_DROPOUT), at) < keep_probability, value / keep_probability, 0.0
    )
    tl.store(out + at, value, mask=there[:, None] & (d < D)[None, :])


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
def pass_on(g, grad, grad_x, at, d, inside, here, fits, RESIDUAL: tl.constexpr):
    """Write the gradient of x. Who is not here passes the gate by, or is padding that leads nowhere."""
    in_x = inside[:, None] & fits[None, :]
    g = tl.where(here[:, None], g, 0.0)
    if RESIDUAL == INPUT:
        g += tl.load(grad + at + d, mask=in_x, other=0.0).to(tl.float32)
    elif RESIDUAL == NORMED:
        g += tl.load(grad + at + d, mask=in_x & (here == 0)[:, None], other=0.0).to(tl.float32)
    tl.store(grad_x + at + d, g, mask=in_x)


@triton.jit
def normal(x, means, scales, t, at, here, fits):
    """(the normalised x before gamma and beta, 0 where nobody is here; its scale)"""
    mask = here[:, None] & fits[None, :]
    mean = tl.load(means + t, mask=here, other=0.0)
    scale = tl.load(scales + t, mask=here, other=0.0)
    value = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[:, None]) * scale[:, None]
    return tl.where(mask, value, 0.0), scale


@triton.jit
def through_norm(g, value, scale, gamma, ds, D):
    """The gradient of x, from that of the norm's output: whole rows."""
    g = g * tl.load(gamma + ds, mask=ds < D, other=0.0).to(tl.float32)[None, :]
    along = tl.sum(g, axis=1) / D
    across = tl.sum(g * value, axis=1) / D
    return scale[:, None] * (g - along[:, None] - value * across[:, None])


@triton.jit(do_not_specialize=["first_expert", "T", "E", "parts", "number"])
def token_gradient_kernel(
    grad,  # [T, D] of y before dropout's gradient: what the residual passes on
    grad_y,  # [T, D] of y, or [S, D] of rows where BY_ROW
    rows,  # [S, D]: gradients of the experts' inputs
    row_of_slot,
    choices,
    weight_of_row,
    probs,
    weight_parts,  # fp32 [parts, S]
    load,  # int64 [3, E]
    grad_balance,  # fp32 [1]: of the balance loss
    b_out,
    gate_weight,
    x,
    gamma,
    means,
    scales,
    grad_logits,  # fp32 [T, BE]
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
    TOP_K: tl.constexpr,
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
    count = tl.maximum(tl.sum(firsts, axis=0), 1.0)
    of_balance = tl.load(grad_balance + number) * E * firsts / count / count
    of_gamma = tl.zeros((BD,), tl.float32)
    of_beta = tl.zeros((BD,), tl.float32)
    for block in tl.range(program, tl.cdiv(T, BT), tl.num_programs(0)):
        t = block * BT + tl.arange(0, BT)
        inside = t < T
        first = tl.load(choices + t, mask=inside, other=-1)
        second = first
        here = first >= 0
        here_2d = here[:, None]
        row_1 = tl.load(row_of_slot + t, mask=inside, other=-1)
        row_2 = row_1
        at = t.to(tl.int64)[:, None] * D + ds[None, :]
        at_1 = row_1.to(tl.int64)[:, None] * D + ds[None, :]
        at_2 = at_1
        kept_1 = row_1 >= 0
        kept_2 = kept_1
        if TOP_K == 2:
            second = tl.load(choices + T + t, mask=inside, other=-1)
            row_2 = tl.load(row_of_slot + T + t, mask=inside, other=-1)
            kept_2 = row_2 >= 0
            at_2 = row_2.to(tl.int64)[:, None] * D + ds[None, :]

        # of the combine weights: <grad y, b_out> of the expert, and what grad_hidden found
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

        # of the probabilities, then of the logits
        first_1h = first[:, None] == e[None, :]
        p = tl.load(probs + t[:, None] * E + e[None, :], mask=here_2d & (e < E)[None, :], other=0.0)
        if TOP_K == 2:
            second_1h = second[:, None] == e[None, :]
            p_1 = tl.where(kept_1, tl.sum(tl.where(first_1h, p, 0.0), axis=1), 0.0)
            p_2 = tl.where(kept_2, tl.sum(tl.where(second_1h, p, 0.0), axis=1), 0.0)
            floor = 1.1920929e-07
            total = tl.maximum(p_1 + p_2, floor)
            common = tl.where(p_1 + p_2 >= floor, (p_1 * grad_1 + p_2 * grad_2) / total, 0.0)
            grad_1 = tl.where(kept_1, (grad_1 - common) / total, 0.0)
            grad_2 = tl.where(kept_2, (grad_2 - common) / total, 0.0)
            grad_p = tl.where(first_1h, grad_1[:, None], 0.0) + tl.where(second_1h, grad_2[:, None], 0.0)
        else:
            grad_p = tl.where(first_1h & kept_1[:, None], grad_1[:, None], 0.0)
        grad_p += of_balance[None, :]
        grad_l = p * (grad_p - tl.sum(p * grad_p, axis=1)[:, None])
        tl.store(grad_logits + t[:, None] * BE + e[None, :], grad_l, mask=inside[:, None])

        # of the tokens
        if WHOLE:
            fits = ds < D
            g = seen_gradient(
                rows, at_1, at_2, kept_1, kept_2, gate_weight, grad_l, grad, at, here_2d, 0, ds, e, E, D,
                TOP_K, RESIDUAL, PRECISION, WHOLE,
            )  # fmt: skip
            value, scale = normal(x, means, scales, t, at, here, fits)
            of_gamma += tl.sum(tl.where(here_2d, g * value, 0.0), axis=0)
            of_beta += tl.sum(tl.where(here_2d, g, 0.0), axis=0)
            g = through_norm(g, value, scale, gamma, ds, D)
            pass_on(g, grad, grad_x, at, 0, inside, here, fits, RESIDUAL)
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
                    pass_on(g, grad, grad_x, at, d, inside, here, fits, RESIDUAL)
    if WHOLE:
        tl.store(share_at, of_gamma, mask=ds < D)
        tl.store(share_at + D, of_beta, mask=ds < D)


@triton.jit(do_not_specialize=["T"])
def norm_gradient_kernel(
    grad,  # [T, D]: what the residual passes on
    choices,
    x,
    gamma,
    means,
    scales,
    grad_x,  # [T, D]: of what the gate saw, where a token is here; becomes that of x
    norm_parts,  # fp32 [programs, 2, D]
    T,
    D,
    RESIDUAL: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,  # >= D
):
    """Gradients of the tokens before the norm, and of the norm."""
    program = tl.program_id(0)
    ds = tl.arange(0, BD)
    fits = ds < D
    of_gamma = tl.zeros((BT, BD), tl.float32)
    of_beta = tl.zeros((BT, BD), tl.float32)
    for block in tl.range(program, tl.cdiv(T, BT), tl.num_programs(0)):
        t = block * BT + tl.arange(0, BT)
        inside = t < T
        here = tl.load(choices + t, mask=inside, other=-1) >= 0
        at = t.to(tl.int64)[:, None] * D + ds[None, :]
        g = tl.load(grad_x + at, mask=here[:, None] & fits[None, :], other=0.0).to(tl.float32)
        value, scale = normal(x, means, scales, t, at, here, fits)
        of_gamma += g * value
        of_beta += g
        g = through_norm(g, value, scale, gamma, ds, D)
        pass_on(g, grad, grad_x, at, 0, inside, here, fits, RESIDUAL)
    share_at = norm_parts + program.to(tl.int64) * 2 * D + ds
    tl.store(share_at, tl.sum(of_gamma, axis=0), mask=fits)
    tl.store(share_at + D, tl.sum(of_beta, axis=0), mask=fits)


@triton.jit(do_not_specialize=["T", "E", "splits"])
def gate_gradient_kernel(
    grad_logits,  # fp32 [T, BE]
    x,  # [T, D] what the gate saw
    grad_y,  # [T, D], or rows where BY_ROW
    row_of_slot,
    choices,
    weight_of_row,
    parts,  # fp32 [splits, 2, E, D]: of the gate's weight, of b_out
    T,
    D,
    E,
    splits,
    TOP_K: tl.constexpr,
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
    share = tl.cdiv(tl.cdiv(T, BT), splits) * BT
    of_gate = tl.zeros((BE, BD), tl.float32)
    of_bias = tl.zeros((BE, BD), tl.float32)
    for begin in tl.range(split * share, tl.minimum(split * share + share, T), BT):
        t = begin + tl.arange(0, BT)
        inside = t < T
        first = tl.load(choices + t, mask=inside, other=-1)
        here = (first >= 0)[:, None]
        at = t.to(tl.int64)[:, None] * D + d[None, :]
        seen = tl.load(x + at, mask=here & fits, other=0.0)
        logits = tl.load(grad_logits + t[:, None] * BE + e[None, :], mask=inside[:, None], other=0.0)
        of_gate = dot_32(tl.trans(logits), seen, of_gate, PRECISION)
        for k in tl.static_range(0, TOP_K):
            choice = tl.load(choices + k * T + t, mask=inside, other=-1)
            row = tl.load(row_of_slot + k * T + t, mask=inside, other=-1)
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


@triton.jit(do_not_specialize=["first_expert", "first_added", "E", "splits", "norm_blocks"])
def reduce_kernel(
    gate_parts,  # fp32 [splits, 2, E, D]
    bias_parts,  # fp32 [tiles of rows, F]
    norm_parts,  # fp32 [blocks, 2, D]
    starts,
    grad_gate,  # [E, D]
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
