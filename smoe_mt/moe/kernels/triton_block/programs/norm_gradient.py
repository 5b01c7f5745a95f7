"""Gradients through the norm before a gate."""

from __future__ import annotations

import triton
import triton.language as tl

from smoe_mt.moe.kernels.triton_block.programs.constants import INPUT, NORMED
from smoe_mt.moe.kernels.triton_block.programs.packing import count_here, token_at


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
def normal(x, means, scales, place, at, here, fits):
    """(the normalised x before gamma and beta, 0 where nobody is here; its scale)"""
    mask = here[:, None] & fits[None, :]
    mean = tl.load(means + place, mask=here, other=0.0)
    scale = tl.load(scales + place, mask=here, other=0.0)
    value = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[:, None]) * scale[:, None]
    return tl.where(mask, value, 0.0), scale


@triton.jit
def through_norm(g, value, scale, gamma, ds, D):
    """The gradient of x, from that of the norm's output: whole rows."""
    g = g * tl.load(gamma + ds, mask=ds < D, other=0.0).to(tl.float32)[None, :]
    along = tl.sum(g, axis=1) / D
    across = tl.sum(g * value, axis=1) / D
    return scale[:, None] * (g - along[:, None] - value * across[:, None])


@triton.jit(do_not_specialize=["T"])
def norm_gradient_kernel(
    grad,  # [T, D]: what the residual passes on
    tokens,
    count,
    x,
    gamma,
    means,
    scales,
    grad_x,  # [T, D]: of what the gate saw, where a token is here; becomes that of x
    norm_parts,  # fp32 [programs, 2, D]
    T,
    D,
    PACKED: tl.constexpr,
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
    here_count = count_here(count, T, PACKED)
    for block in tl.range(program, tl.cdiv(T, BT), tl.num_programs(0)):
        place = block * BT + tl.arange(0, BT)
        inside = place < T
        here = place < here_count
        t = token_at(tokens, place, inside, PACKED)
        at = t.to(tl.int64)[:, None] * D + ds[None, :]
        g = tl.zeros((BT, BD), tl.float32)
        if block * BT < here_count:
            g = tl.load(grad_x + at, mask=here[:, None] & fits[None, :], other=0.0).to(tl.float32)
            value, scale = normal(x, means, scales, place, at, here, fits)
            of_gamma += g * value
            of_beta += g
            g = through_norm(g, value, scale, gamma, ds, D)
        pass_on(g, grad, grad_x, at, 0, inside, here, fits, RESIDUAL)
    share_at = norm_parts + program.to(tl.int64) * 2 * D + ds
    tl.store(share_at, tl.sum(of_gamma, axis=0), mask=fits)
    tl.store(share_at + D, tl.sum(of_beta, axis=0), mask=fits)
