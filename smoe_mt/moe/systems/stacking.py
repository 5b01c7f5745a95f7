"""Stacking (paper: section 4): plain MoE layers in sequence over all tokens, without norm or residual between them.

The control for strata: as many experts in as many groups, but every token passes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from smoe_mt.moe.block import MoEBlock, Routing
from smoe_mt.moe.strata import parse_strata
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE, MoESettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Stacking(MoEBlock):
    """One ``MoE`` layer per entry of ``strata``; norm, dropout and residual around them belong to the transformer layer.

    strata  experts of each layer, e.g. (4, 4)
    The other settings are those of ``MoE``. Balance loss: mean over the layers. Visits: the number of layers.

    Parameters: ``layers.{i}``, each a ``MoE``.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        strata: str | Sequence[int],
        top_k: int = 2,
        **settings: Unpack[MoESettings],
    ) -> None:
        super().__init__()
        self.strata = parse_strata(strata)
        self.layers = nn.ModuleList(MoE(embed_dim, ffn_dim, experts, top_k, **settings) for experts in self.strata)
        for number, layer in enumerate(self.layers, start=1):
            cast(MoE, layer).gate.where = f"the gate of layer {number}"

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        routings: list[Routing] = []
        for layer in self.layers:
            x, routing = layer(x, padding_mask)
            routings.append(routing)
        return x, Routing(
            losses=mean_losses([routing.losses for routing in routings]),
            visits=torch.stack([routing.visits for routing in routings]).sum(dim=0),
            load=tuple(load for routing in routings for load in routing.load),
            entropy=tuple(entropy for routing in routings for entropy in routing.entropy),
            units_of_visit=_units(routings),
            measures=tuple(measures for routing in routings for measures in routing.measures),
        )


def mean_losses(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each named loss over the layers."""
    return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}


def _units(routings: Sequence[Routing]) -> int | Tensor:
    """Over all layers; one number where every visit asks for as many."""
    alike = {each for routing in routings if not isinstance(each := routing.units_of_visit, Tensor)}
    if len(alike) == 1 and not any(isinstance(routing.units_of_visit, Tensor) for routing in routings):
        return alike.pop()
    return torch.stack([routing.units for routing in routings]).sum(dim=0)


def _build(cfg: ModelSettings, place: BlockPlace) -> Stacking:
    return Stacking(strata=place.strata, **common_settings(cfg, place))


def _row_name(cfg: Mapping[str, Any]) -> str:
    strata = parse_strata(cfg["strata"])
    return f"stacking_{len(strata)}_{strata[0]}"


SYSTEM = System(
    name="stacking",
    title="stacked mixtures of experts",
    build=_build,
    rows_per_token=lambda cfg, strata: (cfg.top_k,) * len(strata),
    row_name=_row_name,
    experts_setting=STRATA,
    rows_vary=False,
)
