"""From tokens to choices: norm, gate, softmax and choices in one kernel; counts for each block of tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import SECOND_CHOICE, SEEDS
from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at


@triton.jit
def affine(value, mean, scale, gamma, beta, d, fits):
    """The norm of values, [tokens, columns d], in their own precision."""
    g = tl.load(gamma + d, mask=fits, other=0.0).to(tl.float32)
    b = tl.load(beta + d, mask=fits, other=0.0).to(tl.float32)
    return ((value.to(tl.float32) - mean[:, None]) * scale[:, None] * g[None, :] + b[None, :]).to(value.dtype)


@triton.jit(do_not_specialize=["gate", "T", "E"])
def route_kernel(
    x,  # [T, D]
    tokens,  # int32 [T], by place, where PACKED
    count,
    gamma,
    beta,
    gate_weight,  # [E, D]
    gate_bias,  # [E], where BIAS
    order_bias,  # fp32 [E], added to the probabilities for the choice alone, where ORDERED
    normed,  # [T, D], by token, written where NORM
    mean_out,
    scale_out,  # fp32 [T], by place, as all that follows
    log_sums,  # fp32 [T], log of the summed exponentials of the logits, written where Z
    probs,  # fp32 [T, E]
    choices,  # int32 [K, T]
    counts,  # int32 [blocks, K, BE]
    sums,  # fp32 [blocks, BE + 2]: summed probabilities, entropy, squares of log_sums
    seeds,
    gate,
    T,
    D,
    E,
    epsilon,
    PACKED: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    ORDERED: tl.constexpr,
    Z: tl.constexpr,
    TOP_K: tl.constexpr,
    GUMBEL: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BE: tl.constexpr,
):
    block = tl.program_id(0)
    place = block * BT + tl.arange(0, BT)
    here_count = count_here(count, T, PACKED)
    if block * BT >= here_count:
        return
    here = place < here_count
    t = token_at(tokens, place, here, PACKED)
    ds = tl.arange(0, BD)
    e = tl.arange(0, BE)
    x_at = x + t.to(tl.int64)[:, None] * D + ds[None, :]
    here_2d = here[:, None]
    mean = tl.zeros((BT,), tl.float32)
    scale = tl.zeros((BT,), tl.float32)
    if NORM:
        # Sums of the distance from the row's first value: no loss where the mean is far from 0.
        origin = tl.load(x + t.to(tl.int64) * D, mask=here, other=0.0).to(tl.float32)
        sum_of = tl.zeros((BT,), tl.float32)
        squares = tl.zeros((BT,), tl.float32)
        for d in tl.range(0, D, BD):
            mask = here_2d if EVEN else here_2d & (ds < D - d)[None, :]
            value = tl.load(x_at + d, mask=mask, other=0.0).to(tl.float32) - origin[:, None]
            value = tl.where(mask, value, 0.0)
            sum_of += tl.sum(value, axis=1)
            squares += tl.sum(value * value, axis=1)
        shift = sum_of / D
        mean = origin + shift
        scale = 1.0 / tl.sqrt(tl.maximum(squares / D - shift * shift, 0.0) + epsilon)
        tl.store(mean_out + place, mean, mask=here)
        tl.store(scale_out + place, scale, mask=here)
    logits = tl.zeros((BT, BE), tl.float32)
    w_at = gate_weight + e[None, :] * D + ds[:, None]
    for d in tl.range(0, D, BD):
        mask = here_2d if EVEN else here_2d & (ds < D - d)[None, :]
        value = tl.load(x_at + d, mask=mask, other=0.0)
        if NORM:
            value = affine(value, mean, scale, gamma, beta, d + ds, ds < D - d)
            tl.store(normed + t.to(tl.int64)[:, None] * D + d + ds[None, :], value, mask=mask)
            value = tl.where(mask, value, 0.0).to(value.dtype)
        w = tl.load(w_at + d, mask=(e < E)[None, :] & (ds < D - d)[:, None], other=0.0)
        if value.dtype == w.dtype:
            logits = tl.dot(value, w, logits, input_precision=PRECISION)
        else:
            logits = tl.dot(value.to(tl.float32), w.to(tl.float32), logits, input_precision="ieee")
    if BIAS:
        logits += tl.load(gate_bias + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    logits = tl.where((e < E)[None, :], logits, float("-inf"))
    most = tl.max(logits, axis=1)
    odds = tl.exp(logits - most[:, None])
    total = tl.sum(odds, axis=1)
    p = odds / total[:, None]
    here_e = here_2d & (e < E)[None, :]
    tl.store(probs + place[:, None] * E + e[None, :], p, mask=here_e)
    order = p
    if ORDERED:
        order = tl.where((e < E)[None, :], p + tl.load(order_bias + e, mask=e < E, other=0.0)[None, :], float("-inf"))
    # Where nothing is finite a choice must still be an expert.
    first = tl.minimum(tl.argmax(order, axis=1), E - 1)
    first_1h = (first[:, None] == e[None, :]) & here_2d
    tl.store(choices + place, first, mask=here)
    tl.store(counts + block * TOP_K * BE + e, tl.sum(first_1h.to(tl.int32), axis=0))
    if TOP_K == 2:
        left = order
        if GUMBEL:
            # G / Exp(1) has the order of log G + Gumbel noise.
            chance = tl.rand(tl.load(seeds + gate * SEEDS + SECOND_CHOICE), t[:, None] * BE + e[None, :])
            left = p / tl.maximum(-tl.log(1.0 - chance), 1e-30)
        left = tl.where((first[:, None] == e[None, :]) | (e >= E)[None, :], float("-inf"), left)
        second = tl.minimum(tl.argmax(left, axis=1), E - 1)
        second_1h = (second[:, None] == e[None, :]) & here_2d
        tl.store(choices + T + place, second, mask=here)
        tl.store(counts + (block * TOP_K + 1) * BE + e, tl.sum(second_1h.to(tl.int32), axis=0))
    p = tl.where(here_e, p, 0.0)
    sums_at = sums + block * (BE + 2)
    tl.store(sums_at + e, tl.sum(p, axis=0))
    entropy = tl.sum(tl.sum(-p * tl.log(tl.maximum(p, 1e-37)), axis=1), axis=0)
    tl.store(sums_at + BE, entropy)
    if Z:
        log_sum = most + tl.log(total)
        tl.store(log_sums + place, log_sum, mask=here)
        tl.store(sums_at + BE + 1, tl.sum(tl.where(here, log_sum * log_sum, 0.0), axis=0))


@triton.jit(do_not_specialize=["first_expert", "gates", "T"])
def norm_again_kernel(
    x,  # [T, D]
    tokens,
    count,
    choices,
    next_gate,  # int64 [all experts]
    gamma,
    beta,
    means,
    scales,
    normed,  # [T, D], by token
    first_expert,
    gates,
    T,
    D,
    PACKED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    """What the gate saw of the tokens that went on to a later one, whose norm has taken the place of the gate's."""
    place = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    here_count = count_here(count, T, PACKED)
    if tl.program_id(0) * BT >= here_count:
        return
    here = place < here_count
    fits = d < D
    choice = tl.load(choices + place, mask=here, other=0)
    went_on = here & (tl.load(next_gate + first_expert + choice) < gates)
    mask = went_on[:, None] & fits[None, :]
    at = token_at(tokens, place, here, PACKED).to(tl.int64)[:, None] * D + d[None, :]
    mean = tl.load(means + place, mask=went_on, other=0.0)
    scale = tl.load(scales + place, mask=went_on, other=0.0)
    value = tl.load(x + at, mask=mask, other=0.0)
    tl.store(normed + at, affine(value, mean, scale, gamma, beta, d, fits), mask=mask)
