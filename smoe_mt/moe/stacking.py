"""Stacking (paper: section 4): plain MoE layers in sequence over all tokens, without norm or residual between them.

The control for strata: as many experts in as many groups, but every token passes all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from smoe_mt.moe.layer import MoE, MoESettings
from smoe_mt.moe.routing import Routing
from smoe_mt.moe.strata import parse_strata

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Stacking(nn.Module):
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
            balance_loss=torch.stack([routing.balance_loss for routing in routings]).mean(),
            visits=torch.stack([routing.visits for routing in routings]).sum(dim=0),
            load=tuple(load for routing in routings for load in routing.load),
            entropy=tuple(entropy for routing in routings for entropy in routing.entropy),
        )
