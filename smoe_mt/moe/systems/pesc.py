"""PESC (Wu et al. 2024, arXiv 2401.02731): every expert is the layer's one FFN f, followed by an adapter of its own.

    y = sum_e w_e (f(x) + A_e(f(x))),   A_e(u) = W_up,e gelu(W_down,e u),   w = softmax over the k best of W_r x

The weights sum to 1, so y = f(x) + sum_e w_e A_e(f(x)): f is computed and added once, and a slot that is dropped under a capacity
takes away its adapter alone. W_up starts at 0: at first the layer is f, the FFN of the dense model that it is made of.

``stratified_pesc``: the adapters are the experts of strata. f is computed for a token at its first visit, and the adapters of all
its visits read that (``pesc_ffn=once``): a dense model still translates as before. Or f is computed and added at every visit
(``visit``): x_j = x_i + f(n_i) + sum_e w_e A_e(f(n_i)) with n_i = norm_i(x_i).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.block import Routing
from smoe_mt.moe.experts.activations import activation as known_activation
from smoe_mt.moe.experts.adapters import Adapters, Reading
from smoe_mt.moe.experts.base import BoundExperts
from smoe_mt.moe.kernels.fused import BlockParts
from smoe_mt.moe.routed import RoutedOutput
from smoe_mt.moe.routers.base import Weighting
from smoe_mt.moe.strata import expected_visits
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.stratified import StratifiedMoE
from smoe_mt.moe.systems.vanilla import MoE
from smoe_mt.moe.traversal import GateOutput

NOT_FUSED = "its experts are adapters over an FFN"


class SharedFFN(nn.Module):
    """f(x) = W_2 act(W_1 x + b_1) + b_2: ``fc1``, ``fc2``, as in a dense layer, from which they can start."""

    def __init__(self, embed_dim: int, ffn_dim: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x float [..., D]; the same shape."""
        y: Tensor = self.fc2(known_activation(self.activation).whole(self.fc1(x))).to(x.dtype)
        return y


class AdapterMoE(MoE):
    """A plain block of adapters over an FFN; norm, dropout and residual around it belong to the transformer layer.

    ffn             f
    adapter_dropout on what the adapters read, in training
    settings        of ``MoE``; ``experts`` are the adapters

    Parameters: ``ffn.fc1``, ``ffn.fc2``, ``gate.weight`` [E, D], ``experts.w_in`` [E, W, D], ``experts.w_out`` [E, D, W].

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(self, ffn: SharedFFN, adapter_dropout: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.ffn = ffn
        self.adapter_dropout = adapter_dropout

    @property
    def parts(self) -> BlockParts:
        return replace(super().parts, refusal=NOT_FUSED)

    def _routed(self, x_TD: Tensor, active_T: Tensor | None, bound: BoundExperts) -> RoutedOutput:
        u_TD = self.ffn(x_TD)
        read_TD = F.dropout(u_TD, self.adapter_dropout, self.training)
        out = super()._routed(x_TD, active_T, Reading(bound, read_TD))
        shared_TD = F.dropout(u_TD, self.settings.expert_dropout, self.training)
        return replace(out, y_TD=shared_TD + out.y_TD)


class StratifiedAdapters(StratifiedMoE):
    """A stratified block of adapters over an FFN.

    ffn, adapter_dropout, settings  as in ``AdapterMoE``
    each_visit                      f is computed and added at every visit, not at the first one alone

    Parameters: ``ffn.fc1``, ``ffn.fc2`` and those of ``StratifiedMoE``.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(self, ffn: SharedFFN, adapter_dropout: float, each_visit: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.ffn = ffn
        self.adapter_dropout = adapter_dropout
        self.each_visit = each_visit

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y = x at padding."""
        # A token takes f(x) along from gate to gate, in as many columns again.
        y, routing = super().forward(torch.cat([x, torch.zeros_like(x)], dim=-1), padding_mask)
        return y[..., : x.size(-1)], routing

    @property
    def parts(self) -> BlockParts:
        return replace(super().parts, refusal=NOT_FUSED)

    def _visit(self, i: int, xu_TD: Tensor, active_T: Tensor | None, bound: BoundExperts) -> GateOutput:
        x_TD, u_TD = xu_TD.chunk(2, dim=1)
        normed_TD = self.norms[i](x_TD)
        adds_f = self.each_visit or i == 0
        if adds_f:
            u_TD = self.ffn(normed_TD).to(x_TD.dtype)
        read_TD = F.dropout(u_TD, self.adapter_dropout, self.training)
        out = self._routed(i, normed_TD, active_T, Reading(bound, read_TD))
        if adds_f:
            out = replace(out, y_TD=F.dropout(u_TD, self.settings.expert_dropout, self.training) + out.y_TD)
        moved = self._moved(i, x_TD, normed_TD, out)
        return replace(moved, x_TD=torch.cat([moved.x_TD, u_TD], dim=1))

    def _exit(self, xu_ND: Tensor, padding_N: Tensor | None) -> Tensor:
        x_ND, u_ND = xu_ND.chunk(2, dim=1)
        return torch.cat([super()._exit(x_ND, padding_N), u_ND], dim=1)


@dataclass(frozen=True)
class AdapterOptions:
    """Settings of the model that these systems alone have."""

    pesc_width: int = field(
        default=0,
        metadata={
            "help": "pesc: hidden units of an adapter; 0: an eighth of the embedding dimension (paper: 512 of 4096)",
            "range": (0, 1_048_576),
        },
    )
    pesc_dropout: float = field(
        default=0.1,
        metadata={
            "help": "pesc: dropout of what adapters read",
            "training_only": True,
            "range": (0, 1, False, True),
        },
    )
    pesc_weights: Literal["renormalised", "raw"] = field(
        default="renormalised",
        metadata={"help": "pesc: weights of the adapters: over their sum, or the gate's probabilities as they are"},
    )
    pesc_ffn: Literal["once", "visit"] = field(
        default="once",
        metadata={
            "help": "stratified_pesc: compute and add the FFN at a token's first visit alone (so that it starts as its dense "
            "model), or at every visit"
        },
    )


def build(cfg: ModelSettings, place: BlockPlace) -> AdapterMoE:
    """Raises ValueError where gates would learn nothing from the task."""
    return AdapterMoE(_ffn(cfg, place), cfg.pesc_dropout, num_experts=place.num_experts, **_settings(cfg, place))


def build_stratified(cfg: ModelSettings, place: BlockPlace) -> StratifiedAdapters:
    """Raises ValueError where gates would learn nothing from the task."""
    each_visit = str(cfg.pesc_ffn) == "visit"
    settings = _settings(cfg, place)
    return StratifiedAdapters(_ffn(cfg, place), cfg.pesc_dropout, each_visit, strata=place.strata, **settings)


def _ffn(cfg: ModelSettings, place: BlockPlace) -> SharedFFN:
    return SharedFFN(place.embed_dim, place.ffn_dim, cfg.activation_fn)


def _settings(cfg: ModelSettings, place: BlockPlace) -> dict[str, Any]:
    raw = str(cfg.pesc_weights) == "raw"
    if cfg.top_k == 1 and not raw:
        raise ValueError(
            "top_k=1 with pesc_weights=renormalised weighs every adapter with 1, so that gates learn nothing from the task: "
            "choose pesc_weights=raw, or top_k=2"
        )
    width = cfg.pesc_width or max(1, place.embed_dim // 8)
    experts = Adapters(sum(place.groups), place.embed_dim, width)
    weighting = Weighting.RAW if raw else Weighting.RENORMALISED
    return {**common_settings(cfg, place), "experts": experts, "weighting": weighting}


def _ffns_in_strata(cfg: ModelSettings, place: BlockPlace, rows: float) -> float:
    return rows / cfg.top_k if str(cfg.pesc_ffn) == "visit" else 1.0


SYSTEM = System(
    name="pesc",
    title="mixture of adapters over one FFN (PESC)",
    build=build,
    rows_per_token=lambda cfg, groups: (cfg.top_k,),
    row_name=lambda cfg: "pesc",
    options=AdapterOptions,
    dense_ffns=1,
    rows_vary=False,
)

STRATIFIED = System(
    name="stratified_pesc",
    title="stratified mixture of adapters over one FFN (PESC in strata)",
    build=build_stratified,
    rows_per_token=lambda cfg, strata: (cfg.top_k * expected_visits(strata),),
    row_name=lambda cfg: "stratified_pesc",
    figure_title=lambda strata: "PESC-SMoE-" + "-".join(map(str, strata)),
    options=AdapterOptions,
    dense_ffns=_ffns_in_strata,
    experts_setting=STRATA,
    nested=True,
)
