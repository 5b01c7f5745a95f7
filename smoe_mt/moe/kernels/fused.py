"""The blocks of this package as one operator each: from their settings and weights to ``block.run_block``, and to Routing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smoe_mt.moe.kernels.block import Settings, run_block
from smoe_mt.moe.routing import GateLoad, Routing

if TYPE_CHECKING:
    from smoe_mt.moe.experts import Experts
    from smoe_mt.moe.gating import Gate
    from smoe_mt.moe.masking import ExpertOutputMask
    from smoe_mt.moe.passing import PassSettings


def fused_block(
    x: Tensor,
    padding_mask: Tensor | None,
    experts: Experts,
    gates: Sequence[Gate],
    norms: Sequence[torch.nn.LayerNorm],
    first_experts: tuple[int, ...],
    next_gate: Tensor,
    settings: PassSettings,
    mask: ExpertOutputMask,
    dropout: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Routing]:
    """A block's pass: x [..., D], padding_mask bool [...] or None; experts compute in ``dtype``.

    norms: one per gate where tokens go from gate to gate; none for a plain layer. Returns y, 0 at padding without norms and
    x with them, and the routing.
    """
    training = gates[0].training
    chosen = Settings(
        first_experts=first_experts,
        top_k=settings.top_k,
        strata=bool(norms),
        capacity_factor=settings.capacity_factor if training else 0.0,
        release=settings.variant == "release",
        activation=experts.activation,
        gumbel=settings.second_choice == "gumbel" and settings.top_k > 1,
        dropout=dropout if training else 0.0,
        expert_dropout=settings.expert_dropout if training else 0.0,
        mask=mask.p if training else 0.0,
        scale=1.0 if training else 1.0 - mask.p,
        epsilon=norms[0].eps if norms else 0.0,
    )
    x_ND = x.reshape(-1, x.size(-1))
    y_ND, balance, entropy, visits_N, *loads = run_block(
        x_ND if norms else x_ND.to(dtype),
        None if padding_mask is None else padding_mask.reshape(-1),
        next_gate,
        [gate.weight for gate in gates],
        [weight for norm in norms for weight in (norm.weight, norm.bias)],
        list(experts.weights(dtype)),
        chosen,
    )
    visited: int | Tensor = len(gates)
    if chosen.release and norms:
        visited = torch.stack([load[2].any() for load in loads]).sum().clamp(min=1)
    loss = balance[0] if len(gates) == 1 else balance.sum() / visited
    routing = Routing(
        loss, visits_N.view(x.shape[:-1]), tuple(GateLoad(*load.unbind()) for load in loads), entropy.unbind()
    )
    return y_ND.view(x.shape), routing
