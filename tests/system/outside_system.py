"""A system as somebody else would write it, in one file outside of the package: another scorer, another kind of expert, a loss
of its own, and options for all of them. ``SMOE_MT_SYSTEMS=.../outside_system.py`` makes it known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe import BlockPlace, ExpertBank, MoE, Router, System, TopK, Weighting, common_settings, register_system
from smoe_mt.moe.routers import Choices, at_least_float32


class CosineRouter(Router):
    """softmax(scale * cos(x, w_e)), and a loss for directions that are alike."""

    loss_names = ("balance", "alike")

    def __init__(self, embed_dim: int, num_experts: int, top_k: int, scale: float) -> None:
        super().__init__(num_experts, TopK(top_k), Weighting.UNIFORM)
        self.scale = scale
        self.directions = nn.Parameter(torch.randn(num_experts, embed_dim))

    def scores(self, x_TD: Tensor) -> Tensor:
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = at_least_float32(x_TD)
            directions = F.normalize(self.directions.to(x_TD.dtype), dim=1)
            return (self.scale * F.linear(F.normalize(x_TD, dim=1), directions)).softmax(dim=1)

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        unit = F.normalize(self.directions, dim=1)
        alike = (unit @ unit.t() - torch.eye(self.num_experts, dtype=unit.dtype)).square().mean()
        return {**super().losses(x_TD, probs_TE, choices, lead_E, active_T), "alike": alike}


class GatedExperts(ExpertBank):
    """(a * sigmoid(b)) W_out with [a, b] = W_in x, without biases: no FFN that the fast kernels know."""

    def __init__(self, num_experts: int, embed_dim: int, units: int) -> None:
        super().__init__(num_experts, embed_dim)
        self.units = units
        self.w_in = nn.Parameter(torch.randn(num_experts, 2 * units, embed_dim) / math.sqrt(embed_dim))
        self.w_out = nn.Parameter(torch.randn(num_experts, embed_dim, units) / math.sqrt(units))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return (self.units,) * self.num_experts

    def flops_per_row(self) -> tuple[int, ...]:
        return (2 * 3 * self.embed_dim * self.units,) * self.num_experts

    def expert_output(self, e: int, rows_SD: Tensor) -> Tensor:
        a, b = F.linear(rows_SD, self.w_in[e].to(rows_SD.dtype)).chunk(2, dim=1)
        return F.linear(a * b.sigmoid(), self.w_out[e].to(rows_SD.dtype))


@dataclass(frozen=True)
class CosineOptions:
    cosine_scale: float = field(
        default=8.0, metadata={"help": "cosine: what a cosine is multiplied with", "range": (0, 1000)}
    )
    cosine_units: Literal["half", "all"] = field(
        default="half", metadata={"help": "cosine: hidden units of an expert, of those of an FFN"}
    )


def build(cfg: Any, place: BlockPlace) -> MoE:
    units = place.ffn_dim // 2 if str(cfg.cosine_units) == "half" else place.ffn_dim
    bank = GatedExperts(place.num_experts, place.embed_dim, units)
    return MoE(
        num_experts=place.num_experts,
        **common_settings(cfg, place),
        router=lambda experts: CosineRouter(place.embed_dim, experts, cfg.top_k, cfg.cosine_scale),
        experts=bank,
    )


SYSTEM = register_system(
    System(
        name="cosine",
        title="mixture of gated experts with a cosine gate",
        build=build,
        rows_per_token=lambda cfg, groups: (cfg.top_k,),
        row_name=lambda cfg: "cosine",
        options=CosineOptions,
        loss_weights={"alike": 0.1},
        rows_vary=False,
    )
)
