"""How dispatch used to be done: one-hot tensors of tokens x experts x capacity. Grows with the square of the tokens.

The reference that the engine's cost is set beside, as in GShard's pseudo code and the code released with the paper; it
computes what the blocks of ``smoe_mt.moe`` compute, with their weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.experts.activations import activation
from smoe_mt.moe.routed import slot_capacity
from smoe_mt.moe.routers.base import combine_weights
from smoe_mt.moe.routers.gate import gate_probabilities
from smoe_mt.moe.routers.top_k import choose
from smoe_mt.moe.systems.vanilla import default_weighting


def one_hot_pass(
    x_TD: Tensor, gate_ED: Tensor, experts: Experts, first: int, top_k: int, factor: float
) -> tuple[Tensor, Tensor]:
    """Tokens through one gate: (y_TD, first choices int64 [T]); ``factor`` 0: every expert has room for all tokens."""
    tokens, visible = x_TD.size(0), gate_ED.size(0)
    probs_TE = gate_probabilities(x_TD, gate_ED)
    choices_TK = choose(probs_TE, top_k)
    capacity = int(slot_capacity(factor, tokens, visible)) if factor else tokens
    chosen_KTE = F.one_hot(choices_TK.t(), visible)
    place_KT = (chosen_KTE.flatten(0, 1).cumsum(0).view_as(chosen_KTE) * chosen_KTE).sum(-1) - 1
    kept_TK = (place_KT < capacity).t()
    weights_TK = combine_weights(probs_TE, choices_TK, kept_TK, default_weighting(top_k))
    combine_TEC = x_TD.new_zeros(tokens, visible, capacity)
    for k in range(top_k):
        place_TC = F.one_hot(place_KT[k].clamp(max=capacity - 1), capacity) * kept_TK[:, k, None]
        combine_TEC = combine_TEC + weights_TK[:, k, None, None] * chosen_KTE[k, :, :, None] * place_TC[:, None]
    dispatch_TEC = (combine_TEC > 0).to(x_TD.dtype)
    w_in, b_in, w_out, b_out = (weight[first:] for weight in experts.weights(x_TD.dtype))
    rows_ECD = torch.einsum("tec,td->ecd", dispatch_TEC, x_TD)
    a_ECF = activation(experts.activation).whole(torch.einsum("ecd,efd->ecf", rows_ECD, w_in) + b_in[:, None])
    out_ECD = torch.einsum("ecf,edf->ecd", a_ECF, w_out) + b_out[:, None]
    return torch.einsum("tec,ecd->td", combine_TEC.to(x_TD.dtype), out_ECD), choices_TK[:, 0]


def chosen(gate: Any) -> int:
    """Experts that it sends a token to."""
    k: int = gate.selection.k
    return k


def one_hot_moe(block: MoE, x_TD: Tensor) -> Tensor:
    """What ``block`` (variant "paper", no masking) makes of x_TD; [T, D]."""
    factor = block.settings.capacity_factor if block.training else 0.0
    return one_hot_pass(x_TD, block.gate.weight, block.experts, 0, chosen(block.gate), factor)[0]


def one_hot_stratified(block: StratifiedMoE, x_TD: Tensor) -> Tensor:
    """What ``block`` (variant "paper", no dropout or masking) makes of x_TD; [T, D]."""
    factor = block.settings.capacity_factor if block.training else 0.0
    at_T = torch.zeros(x_TD.size(0), dtype=torch.long, device=x_TD.device)
    for i, first in enumerate(block.first_experts):
        here = (at_T == i).nonzero().squeeze(1)
        if not here.numel():
            continue
        normed_TD = block.norms[i](x_TD[here])
        gate_ED = block.gates[i].weight
        y_TD, first_T = one_hot_pass(normed_TD, gate_ED, block.experts, first, chosen(block.gates[i]), factor)
        x_TD = x_TD.index_add(0, here, y_TD)
        at_T[here] = block.next_gate[first + first_T]
    return x_TD
