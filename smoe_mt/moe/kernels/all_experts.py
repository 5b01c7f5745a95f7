"""Kernel ``all_experts``: all experts that a gate sees compute all tokens, and a token's rows of its own experts are added up.

For a few tokens on a GPU in evaluation, as in each step of a search. Then a product costs what reading its weights costs, the
tokens' choices reach most experts anyway, and planning a dispatch takes more launches than the products. Nothing is read back from
the device, so a step can be captured as a graph.

When it is chosen is ``takes_all``. ``python -m benchmarks.bench_experts`` prints the constants that a GPU's times ask for; those
here are not measured on one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.moe.block import wants_routing
from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts.activations import Activation
from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.experts.ffn import FFNBank

ALL_EXPERTS = "all_experts"  # the kernel's name
DEVICES = ("cuda",)
# Tokens up to which it takes the place of `loop`, which reads back from the device at every gate.
MOST_TOKENS = 128
# Tokens up to which it takes the place of the Triton kernels, too; 0: never.
MOST_TOKENS_BESIDE_TRITON = 0
# Experts to each choice of a token up to which it is chosen: with more of them, most weights would be read for nothing.
MOST_EXPERTS_PER_CHOICE = 4


def takes_all(bank: ExpertBank, x: Tensor, choices: int, fused: bool = False) -> bool:
    """Whether all experts of a bank compute ``x`` [..., D], whose tokens choose ``choices`` experts each.

    fused  whether the Triton kernels would compute it otherwise
    """
    here = x.device.type in DEVICES and isinstance(bank, FFNBank) and bank.remote is None
    if not here or wants_routing(bank.training):
        return False
    most = min(MOST_TOKENS, MOST_TOKENS_BESIDE_TRITON) if fused else MOST_TOKENS
    tokens = x.numel() // bank.embed_dim
    return tokens <= most and bank.num_experts <= MOST_EXPERTS_PER_CHOICE * tokens * choices


def plan_all(experts_TK: Tensor, num_experts: int, active_T: Tensor | None, complete: bool) -> Plan:
    """Where the rows of a token's choices are if expert e has rows e * T to (e + 1) * T, one for each token.

    It has ``row_TK`` and ``kept_TK`` alone. Arguments as in ``plan_dispatch``.
    """
    tokens = experts_TK.size(0)
    kept_TK = None if complete else experts_TK < num_experts
    if active_T is not None:
        active_TK = active_T[:, None].expand_as(experts_TK)
        kept_TK = active_TK if kept_TK is None else kept_TK & active_TK
    token_T1 = torch.arange(tokens, device=experts_TK.device)[:, None]
    row_TK = torch.add(token_T1, experts_TK if complete else experts_TK.clamp(max=num_experts - 1), alpha=tokens)
    nothing = experts_TK.new_empty(0)
    return Plan(nothing, nothing, row_TK, kept_TK, nothing, nothing)


def all_experts_ffn(
    x_TD: Tensor,
    weights_TK: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    plan: Plan,
    first_expert: int,
    act: Activation,
) -> Tensor:
    """y = sum_k weights_TK[:, k] FFN_e(x) over the choices of ``plan_all``; its expert 0 is ``first_expert``; [T, D].

    Added up in the weights' precision, returned in that of ``x_TD``.
    """
    w_in, b_in, w_out, b_out = (stack[first_expert:] for stack in weights)
    h_TEF = F.linear(x_TD, w_in.flatten(0, 1), b_in.flatten()).unflatten(1, b_in.shape)
    a_ETF = act.output(act.keep(h_TEF)).transpose(0, 1)
    out_ETD = torch.baddbmm(b_out[:, None], a_ETF, w_out.transpose(1, 2))
    rows_TKD = out_ETD.flatten(0, 1).index_select(0, plan.row_TK.flatten()).unflatten(0, plan.row_TK.shape)
    if plan.kept_TK is not None:
        rows_TKD = rows_TKD.masked_fill(~plan.kept_TK[:, :, None], 0.0)
    y_TD: Tensor = (rows_TKD * weights_TK[:, :, None]).sum(dim=1).to(x_TD.dtype)
    return y_TD
