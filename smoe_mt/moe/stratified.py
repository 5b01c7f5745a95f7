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

from smoe_mt.moe.backends import check_backend, compute_dtype, fuses
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.gating import Gate
from smoe_mt.moe.masking import ExpertOutputMask
from smoe_mt.moe.passing import GatePass, PassSettings, empty_load, pass_gate
from smoe_mt.moe.remote import AnyExperts, ready_experts
from smoe_mt.moe.routing import Routing
from smoe_mt.moe.strata import parse_strata
from smoe_mt.moe.walk import Visit, walk


class StratifiedMoE(nn.Module):
    """SMoE block with norms, residuals and dropout inside: a pre-norm transformer layer uses it in place of its FFN half.

    strata           experts per stratum, e.g. (4, 12)
    top_k            1 or 2 experts a visit (eq. 6)
    capacity_factor  slots an expert serves in training, times T_i / E_i; 0 drops nothing. Evaluation drops nothing.
    variant          "paper": x_j = y + x_i (eq. 7), dropout on y. "release", what the released code computes: from
                     the second visit on the residual is the normalised input, one more norm as tokens leave,
                     dropout inside the experts, capacity factor * ceil(T_i / E_i), balance loss over visited gates.
    backend          "auto", "loop", "grouped" or "triton": see ``backends``
    eom_p            expert output masking at each visit; 0: none
    second_choice    "argmax", or "gumbel": drawn with noise in training and evaluation, as the released code does
    debug            a gate with probabilities that are not finite raises FloatingPointError

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
        second_choice: str = "argmax",
        debug: bool = False,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.backend = backend
        self.strata = parse_strata(strata)
        self.release = variant == "release"
        expert_dropout = dropout if self.release else 0.0
        self.settings = PassSettings(top_k, capacity_factor, variant, expert_dropout, second_choice)
        self.dropout = 0.0 if self.release else dropout
        self.mask = ExpertOutputMask(eom_p)
        num_experts = sum(self.strata)
        self.first_experts = tuple(sum(self.strata[:i]) for i in range(len(self.strata)))
        self.experts = Experts(num_experts, embed_dim, ffn_dim, activation)
        self.gates = nn.ModuleList(
            Gate(embed_dim, num_experts - first, top_k, f"the gate of stratum {i + 1}", debug)
            for i, first in enumerate(self.first_experts)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(len(self.strata) + self.release))
        # Gate that a token meets after an expert; L = it leaves.
        next_gate = [i + 1 for i, size in enumerate(self.strata) for _ in range(size)]
        self.register_buffer("next_gate", torch.tensor(next_gate), persistent=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y = x at padding."""
        gates = [self._gate(i) for i in range(len(self.strata))]
        if fuses(self.backend, self.experts, gates, x):
            return self._fused(x, padding_mask, gates)
        run = ready_experts(self.experts, x, self.backend, self.settings.expert_dropout if self.training else 0.0)

        def visit(i: int, x_TD: Tensor, here_T: Tensor | None) -> Visit:
            return self._visit(i, x_TD, here_T, run)

        x_ND = x.reshape(-1, x.size(-1))
        padding_N = None if padding_mask is None else padding_mask.reshape(-1)
        walked = walk(x_ND, padding_N, len(self.strata), visit, run)
        y_ND = self._exit(walked.x_ND, padding_N) if self.release else walked.x_ND
        return y_ND.view_as(x), self._routing(walked.passes, walked.visits_N.view(x.shape[:-1]))

    def _fused(self, x: Tensor, padding_mask: Tensor | None, gates: list[Gate]) -> tuple[Tensor, Routing]:
        """The pass as one operator."""
        from smoe_mt.moe.kernels.fused import fused_block

        norms = [cast(nn.LayerNorm, norm) for norm in self.norms][: len(gates)]
        y, routing = fused_block(
            x,
            padding_mask,
            self.experts,
            gates,
            norms,
            self.first_experts,
            self.next_gate,
            self.settings,
            self.mask,
            self.dropout,
            compute_dtype(x),
        )
        if self.release:
            padding_N = None if padding_mask is None else padding_mask.reshape(-1)
            y = self._exit(y.reshape(-1, x.size(-1)), padding_N).view_as(x)
        return y, routing

    def _exit(self, x_ND: Tensor, padding_N: Tensor | None) -> Tensor:
        """The released code's norm for tokens that leave; padding stays as it is."""
        if padding_N is None:
            return self.norms[-1](x_ND)
        padding_N1 = padding_N[:, None]
        return torch.where(padding_N1, x_ND, self.norms[-1](x_ND.masked_fill(padding_N1, 0.0)))

    def _visit(self, i: int, x_TD: Tensor, here_T: Tensor | None, run: AnyExperts) -> Visit:
        """The tokens at stratum i through its gate: x_j = y + x_i (eq. 4-7)."""
        normed_TD = self.norms[i](x_TD)
        first_expert = self.first_experts[i]
        passed = pass_gate(normed_TD, here_T, self._gate(i), run, first_expert, self.mask, self.settings)
        residual_TD = normed_TD if self.release and i else x_TD
        moved_TD = residual_TD + F.dropout(passed.y_TD, self.dropout, self.training).to(x_TD.dtype)
        return Visit(moved_TD, self.next_gate[first_expert + passed.first_T], passed)

    def _gate(self, i: int) -> Gate:
        return cast(Gate, self.gates[i])

    def _routing(self, passes: Sequence[GatePass | None], visits: Tensor) -> Routing:
        """Collect the gates' shares; a gate that no token reached adds 0 (release: is left out of the mean)."""
        zero = torch.zeros((), device=visits.device)
        losses = [zero if p is None else p.balance_loss for p in passes]
        load = tuple(empty_load(self._gate(i)) if p is None else p.load for i, p in enumerate(passes))
        gates: int | Tensor = len(passes)
        if self.release:
            gates = sum((one.tokens.any().long() for one in load), zero).clamp(min=1)
        entropy = tuple(zero if p is None else p.entropy for p in passes)
        return Routing(sum(losses, zero) / gates, visits, load, entropy)
