"""Stratified mixture of experts: the block that the paper is about (section 2, eq. 4-11).

Gate i sees the experts of stratum i and of all later strata. A token starts at gate 1; sent to an expert of stratum j
it comes out at gate j+1, and after an expert of the last stratum it leaves. Tokens never go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.experts import Experts
from smoe_mt.moe.gating import Gate
from smoe_mt.moe.layer import (
    GatePass,
    PassSettings,
    check_backend,
    empty_load,
    pass_gate,
    real_tokens,
)
from smoe_mt.moe.masking import ExpertOutputMask
from smoe_mt.moe.routing import Routing
from smoe_mt.moe.strata import parse_strata


class StratifiedMoE(nn.Module):
    """SMoE block with norms, residuals and dropout inside: a pre-norm transformer layer uses it in place of its FFN half.

    strata           experts per stratum, e.g. (4, 12)
    top_k            1 or 2 experts a visit (eq. 6)
    capacity_factor  slots an expert serves in training, times T_i / E_i; 0 drops nothing. Evaluation drops nothing.
    variant          "paper": x_j = y + x_i (eq. 7), dropout on y. "release", what the released code computes: from
                     the second visit on the residual is the normalised input, one more norm as tokens leave,
                     dropout inside the experts, capacity factor * ceil(T_i / E_i), balance loss over visited gates.
    eom_p            expert output masking at each visit; 0: none

    Parameters: ``norms.{i}``, ``gates.{i}.weight`` [E_i, D], ``experts`` numbered stratum by stratum.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    next_gate: Tensor

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        strata: str | Sequence[int],
        top_k: int = 2,
        capacity_factor: float = 2.0,
        variant: str = "paper",
        dropout: float = 0.0,
        activation: str = "relu",
        backend: str = "auto",
        eom_p: float = 0.0,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.strata = parse_strata(strata)
        self.release = variant == "release"
        self.settings = PassSettings(top_k, capacity_factor, variant, dropout if self.release else 0.0)
        self.dropout = 0.0 if self.release else dropout
        self.mask = ExpertOutputMask(eom_p)
        num_experts = sum(self.strata)
        self.first_experts = tuple(sum(self.strata[:i]) for i in range(len(self.strata)))
        self.experts = Experts(num_experts, embed_dim, ffn_dim, activation)
        self.gates = nn.ModuleList(
            Gate(embed_dim, num_experts - first, top_k, f"the gate of stratum {i + 1}")
            for i, first in enumerate(self.first_experts)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(len(self.strata) + self.release))
        # Gate that a token meets after an expert; L = it leaves.
        next_gate = [i + 1 for i, size in enumerate(self.strata) for _ in range(size)]
        self.register_buffer("next_gate", torch.tensor(next_gate), persistent=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y = x at padding."""
        x_ND = x.reshape(-1, x.size(-1))
        token_T = real_tokens(padding_mask)
        x_TD = x_ND if token_T is None else x_ND.index_select(0, token_T)
        gate_T = torch.zeros(x_TD.size(0), dtype=torch.long, device=x.device)
        visits_T = torch.zeros_like(gate_T)
        passes: list[GatePass | None] = []
        for i in range(len(self.strata)):
            here = (gate_T == i).nonzero().squeeze(1)
            if here.numel() == 0:
                passes.append(None)
                continue
            everyone = here.numel() == gate_T.numel()
            out, moved = self._visit(i, x_TD if everyone else x_TD.index_select(0, here))
            x_TD = moved if everyone else x_TD.index_copy(0, here, moved)
            visits_T[here] += 1
            gate_T[here] = self.next_gate[self.first_experts[i] + out.first_T]
            passes.append(out)
        if self.release and x_TD.size(0):
            x_TD = self.norms[-1](x_TD)
        y_ND, visits_N = x_TD, visits_T
        if token_T is not None:
            y_ND = x_ND.index_copy(0, token_T, x_TD)
            visits_N = visits_T.new_zeros(x_ND.size(0)).index_copy(0, token_T, visits_T)
        return y_ND.view_as(x), self._routing(passes, visits_N.view(x.shape[:-1]))

    def _visit(self, i: int, x_TD: Tensor) -> tuple[GatePass, Tensor]:
        """The tokens at stratum i through its gate: (pass, x_j = y + x_i) (eq. 4-7)."""
        normed_TD = self.norms[i](x_TD)
        out = pass_gate(normed_TD, self._gate(i), self.experts, self.first_experts[i], self.mask, self.settings)
        residual_TD = normed_TD if self.release and i else x_TD
        return out, residual_TD + F.dropout(out.y_TD, self.dropout, self.training).to(x_TD.dtype)

    def _gate(self, i: int) -> Gate:
        return cast(Gate, self.gates[i])

    def _routing(self, passes: list[GatePass | None], visits: Tensor) -> Routing:
        """Collect the gates' shares; a gate that no token reached adds 0 (release: is left out of the mean)."""
        reached = [p for p in passes if p is not None]
        zero = torch.zeros((), device=visits.device)
        total = sum((p.balance_loss for p in reached), zero)
        gates = max(len(reached), 1) if self.release else len(passes)
        return Routing(
            balance_loss=total / gates,
            visits=visits,
            load=tuple(empty_load(self._gate(i)) if p is None else p.load for i, p in enumerate(passes)),
            entropy=tuple(zero if p is None else p.entropy for p in passes),
        )
