"""A block's pass as an operator: in eager mode an autograd function, for torch.compile one that is registered with torch.

``torch.ops.smoe_mt.block`` and ``block_backward`` have fake implementations and a gradient, so that a compiler takes a block as
one node, and that modes which look at operators (a counter of FLOPs) see it. Other eager passes go around them: their
dispatch costs the host more than a block's launches.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from smoe_mt.moe.kernels.block import (
    SEEDS,
    BlockFunction,
    Experts,
    Gate,
    Settings,
    block_backward,
    block_forward,
)


@torch.library.custom_op("smoe_mt::block", mutates_args=())
def _block(
    x: Tensor,
    padding: Optional[Tensor],  # noqa: UP045 (torch reads the schema from these hints)
    next_gate: Tensor,
    seeds: Optional[Tensor],  # noqa: UP045
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    settings: str,
    keep: bool,
) -> list[Tensor]:
    return block_forward(x, padding, next_gate, seeds, gates, norms, experts, settings, keep)


@_block.register_fake
def _(
    x: Tensor,
    padding: Tensor | None,
    next_gate: Tensor,
    seeds: Tensor | None,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    settings: str,
    keep: bool,
) -> list[Tensor]:
    s, w = Settings.of(settings), Experts(*experts)
    t, count = x.size(0), len(gates)
    passes = [Gate(i, x, gates, w, s, seeds).empty(x, keep, len(norms) > 0) for i in range(count)]
    kept = [tensor for passed in passes for tensor in passed if tensor is not passed.load] if keep else []
    y = x.new_empty(x.shape, dtype=x.dtype if s.strata else w.w_in.dtype)
    scalars = [x.new_empty(count, dtype=torch.float32) for _ in range(2)]
    visits = x.new_empty(t, dtype=torch.int64)
    return [y, *scalars, visits, x.new_empty(count - 1, *x.shape), *(p.load for p in passes), *kept]


@torch.library.custom_op("smoe_mt::block_backward", mutates_args=())
def _block_backward(
    grad: Tensor,
    grad_balance: Tensor,
    x: Tensor,
    seeds: Optional[Tensor],  # noqa: UP045
    later: Tensor,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: str,
) -> list[Tensor]:
    grads = block_backward(grad, grad_balance, x, seeds, later, gates, norms, experts, kept, settings, False)
    norm = range(1 + len(gates), 1 + len(gates) + len(norms))  # halves of one tensor each: an operator returns no views
    return [one.clone() if i in norm else one for i, one in enumerate(grads)]


@_block_backward.register_fake
def _(
    grad: Tensor,
    grad_balance: Tensor,
    x: Tensor,
    seeds: Tensor | None,
    later: Tensor,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: str,
) -> list[Tensor]:
    return [torch.empty_like(one) for one in (x, *gates, *norms, *experts)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, _, _, seeds, gates, norms, experts, ctx.settings, _ = inputs
    ctx.sizes = (len(gates), len(norms), len(experts))
    later, loads, kept = output[4], output[5 : 5 + len(gates)], output[5 + len(gates) :]
    ctx.save_for_backward(x, seeds, later, *gates, *norms, *experts, *kept, *loads)


def _gradients(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    x, seeds, later, *rest = ctx.saved_tensors
    gates, norms, experts = ctx.sizes
    ends = (gates, gates + norms, gates + norms + experts)
    split = rest[: ends[0]], rest[ends[0] : ends[1]], rest[ends[1] : ends[2]]
    grad, grad_balance = grads[:2]
    assert grad is not None and grad_balance is not None
    found = torch.ops.smoe_mt.block_backward(
        grad.contiguous(), grad_balance.contiguous(), x, seeds, later, *split, rest[ends[2] :], ctx.settings
    )
    of_x, found = found[0], found[1:]
    return (of_x, None, None, None, found[: ends[0]], found[ends[0] : ends[1]], found[ends[1] :], None, None)


_block.register_autograd(_gradients, setup_context=_keep)


def run_block(
    x: Tensor,
    padding: Tensor | None,
    next_gate: Tensor | None,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    settings: str,
    random: bool,
) -> tuple[Tensor, ...]:
    """(y [T, D], balance fp32 [gates], entropy fp32 [gates], visits int64 [T], a load int64 [3, E] per gate).

    x [T, D]; padding bool [T] or None; next_gate int64 [all experts], None where there is one gate; gates [E_i, D] each; norms
    gamma, beta of each gate or nothing; experts w_in, b_in, w_out, b_out, in the precision to compute in; settings as
    ``Settings.text`` gives them; random: whether anything is drawn.
    """
    count = len(gates)
    seeds = torch.randint(2**31, (count * SEEDS,), device=x.device) if random else None
    x = x.contiguous()
    next_gate = gates[0] if next_gate is None else next_gate  # nobody looks where there is one gate
    keep = torch.is_grad_enabled()
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:  # somebody looks at operators
        out = torch.ops.smoe_mt.block(x, padding, next_gate, seeds, gates, norms, experts, settings, keep)
    elif keep:
        found: tuple[Tensor, ...] = BlockFunction.apply(
            settings, count, padding, next_gate, seeds, x, *gates, *norms, *experts
        )
        return found
    else:
        out = block_forward(x, padding, next_gate, seeds, gates, norms, experts, settings, False)
    y, balance, entropy, visits, _, *rest = out
    return y, balance, entropy, visits, *rest[:count]
