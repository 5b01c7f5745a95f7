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

from smoe_mt.moe.block import MoEBlock, Routing, wants_routing
from smoe_mt.moe.experts.base import BoundExperts, ExpertBank
from smoe_mt.moe.experts.ffn import experts_or
from smoe_mt.moe.kernels.fused import BlockParts, check_sizes, fused_pass, may_fuse
from smoe_mt.moe.kernels.select import bind_experts, check_backend
from smoe_mt.moe.routed import ExpertOutputMask, RoutedOptions, RoutedOutput, empty_load, routed, unit_sizes
from smoe_mt.moe.routers.base import MakeRouter, Router, Selection, Weighting, least_choices
from smoe_mt.moe.routers.bias import LoadBias
from smoe_mt.moe.routers.gate import gate_or
from smoe_mt.moe.routers.top_k import TopK
from smoe_mt.moe.strata import expected_visits, parse_strata
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import default_weighting
from smoe_mt.moe.traversal import GateOutput, traverse


class StratifiedMoE(MoEBlock):
    """SMoE block with norms, residuals and dropout inside: a pre-norm transformer layer uses it in place of its FFN half.

    strata           experts per stratum, e.g. (4, 12)
    top_k            experts a visit (eq. 6); the paper has 1 or 2
    capacity_factor  slots an expert serves in training, times T_i / E_i; 0 drops nothing. Evaluation drops nothing.
    variant          "paper": x_j = y + x_i (eq. 7), dropout on y. "release", what the released code computes: from
                     the second visit on the residual is the normalised input, one more norm as tokens leave,
                     dropout inside the experts, capacity factor * ceil(T_i / E_i), balance loss over visited gates.
    backend          "auto", "loop", "grouped" or "triton": see ``kernels.select``
    eom_p            expert output masking at each visit; 0: none
    second_choice    "argmax", or "gumbel": drawn with noise in training and evaluation, as the released code does
    debug            a gate with probabilities that are not finite raises FloatingPointError
    selection, weighting, experts, router, gate_bias, load_bias   as in ``MoE``; ``router`` makes the gate of each stratum

    Parameters: ``norms.{i}``, ``gates.{i}.weight`` [E_i, D], ``gates.{i}.bias`` if they have one, ``experts`` numbered stratum by stratum.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    has_residual = True
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
        selection: Selection | None = None,
        weighting: Weighting | None = None,
        experts: ExpertBank | None = None,
        router: MakeRouter | None = None,
        gate_bias: bool = False,
        load_bias: LoadBias | None = None,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.backend = backend
        self.strata = parse_strata(strata)
        self.release = variant == "release"
        selection = TopK(top_k, second_choice) if selection is None else selection
        weighting = default_weighting(top_k) if weighting is None else weighting
        self.settings = RoutedOptions(capacity_factor, variant, dropout if self.release else 0.0)
        self.dropout = 0.0 if self.release else dropout
        self.mask = ExpertOutputMask(eom_p)
        num_experts = sum(self.strata)
        self.first_experts = tuple(sum(self.strata[:i]) for i in range(len(self.strata)))
        self.experts = experts_or(experts, num_experts, embed_dim, ffn_dim, activation)
        self.unit_sizes = unit_sizes(self.experts)
        self.gates = nn.ModuleList(
            gate_or(
                router,
                embed_dim,
                num_experts - first,
                selection,
                weighting,
                f"the gate of stratum {i + 1}",
                debug,
                gate_bias,
                load_bias,
                self.strata[i:],
            )
            for i, first in enumerate(self.first_experts)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(len(self.strata) + self.release))
        # Gate that a token meets after an expert; L = it leaves.
        next_gate = [i + 1 for i, size in enumerate(self.strata) for _ in range(size)]
        self.register_buffer("next_gate", torch.tensor(next_gate), persistent=False)
        check_sizes(self.parts, backend)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y = x at padding."""
        x_ND = x.reshape(-1, x.size(-1))
        padding_N = None if padding_mask is None else padding_mask.reshape(-1)
        fused = self._fused(x, padding_mask) if may_fuse(x, self.backend) else None
        if fused is not None:
            y, routing = fused
            return (self._exit(y.view_as(x_ND), padding_N).view_as(x) if self.release else y), routing
        dropout = self.settings.expert_dropout if self.training else 0.0
        bound = bind_experts(self.experts, x, self.backend, dropout, least_choices(self._gate(0)))

        def gate(i: int, x_TD: Tensor, active_T: Tensor | None) -> GateOutput:
            return self._visit(i, x_TD, active_T, bound)

        done = traverse(x_ND, padding_N, len(self.strata), gate, bound, self.training)
        y_ND = self._exit(done.x_ND, padding_N) if self.release else done.x_ND
        units = done.units.view(x.shape[:-1]) if isinstance(done.units, Tensor) else done.units
        return y_ND.view_as(x), self._routing(done.passes, done.visits_N.view(x.shape[:-1]), units)

    @property
    def parts(self) -> BlockParts:
        """As a kernel for whole blocks sees it."""
        return BlockParts(
            bank=self.experts,
            routers=[self._gate(i) for i in range(len(self.strata))],
            first_experts=self.first_experts,
            options=self.settings,
            mask=self.mask,
            norms=[cast(nn.LayerNorm, norm) for norm in self.norms][: len(self.strata)],
            next_gate=self.next_gate,
            dropout=self.dropout,
        )

    def _fused(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Routing] | None:
        """The way through all strata by one kernel; None where there is none for this block."""
        return fused_pass(self.parts, x, padding_mask, self.backend)

    def _exit(self, x_ND: Tensor, padding_N: Tensor | None) -> Tensor:
        """The released code's norm for tokens that leave; padding stays as it is."""
        if padding_N is None:
            normed_ND: Tensor = self.norms[-1](x_ND)
            return normed_ND
        padding_N1 = padding_N[:, None]
        return torch.where(padding_N1, x_ND, self.norms[-1](x_ND.masked_fill(padding_N1, 0.0)))

    def _visit(self, i: int, x_TD: Tensor, active_T: Tensor | None, bound: BoundExperts) -> GateOutput:
        """The tokens at stratum i through its gate: x_j = y + x_i (eq. 4-7)."""
        normed_TD = self.norms[i](x_TD)
        return self._moved(i, x_TD, normed_TD, self._routed(i, normed_TD, active_T, bound))

    def _routed(self, i: int, normed_TD: Tensor, active_T: Tensor | None, bound: BoundExperts) -> RoutedOutput:
        first = self.first_experts[i]
        return routed(normed_TD, active_T, self._gate(i), bound, first, self.unit_sizes, self.mask, self.settings)

    def _moved(self, i: int, x_TD: Tensor, normed_TD: Tensor, out: RoutedOutput) -> GateOutput:
        """What the experts made of the tokens, with its residual, and where they go."""
        residual_TD = normed_TD if self.release and i else x_TD
        y_TD = F.dropout(out.y_TD, self.dropout) if self.training else out.y_TD
        moved_TD = residual_TD + y_TD.to(x_TD.dtype)
        return GateOutput(moved_TD, self.next_gate[self.first_experts[i] + out.lead_T], out)

    def _gate(self, i: int) -> Router:
        return cast(Router, self.gates[i])

    def _routing(self, passes: Sequence[RoutedOutput | None], visits: Tensor, units: int | Tensor) -> Routing:
        """Collect the gates' shares; a gate that no token reached adds 0 (release: is left out of the mean)."""
        if not wants_routing(self.training):
            return Routing({}, visits, (), (), units)
        told = [None if p is None else p.told for p in passes]
        zero = torch.zeros((), device=visits.device)
        load = tuple(empty_load(self._gate(i), visits.device) if p is None else p.load for i, p in enumerate(told))
        gates: int | Tensor = len(told)
        if self.release:
            gates = sum((one.tokens.any().long() for one in load), zero).clamp(min=1)
        losses = {
            name: sum((zero if p is None else p.losses[name] for p in told), zero) / gates
            for name in self._gate(0).loss_names
        }
        entropy = tuple(zero if p is None else p.entropy for p in told)
        measures = tuple(
            dict.fromkeys(self._gate(i).measure_names, zero) if p is None else p.measures for i, p in enumerate(told)
        )
        return Routing(losses, visits, load, entropy, units, measures=measures)


def _build(cfg: ModelSettings, place: BlockPlace) -> StratifiedMoE:
    return StratifiedMoE(strata=place.strata, **common_settings(cfg, place))


SYSTEM = System(
    name="stratified",
    title="stratified mixture of experts (SMoE)",
    build=_build,
    rows_per_token=lambda cfg, strata: (cfg.top_k * expected_visits(strata),),
    row_name=lambda cfg: "smoe_" + "_".join(map(str, parse_strata(cfg["strata"]))),
    figure_title=lambda strata: "SMoE-" + "-".join(map(str, strata)),
    experts_setting=STRATA,
    nested=True,
)
