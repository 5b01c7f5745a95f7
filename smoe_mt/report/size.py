"""What a token costs in a run's model: FLOPs and activated parameters, as its gates were measured to route."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from smoe_mt.analysis.cost import cost_of_model, skeleton
from smoe_mt.errors import UserError
from smoe_mt.json_forms import as_number
from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.models.sizes import activated_parameters
from smoe_mt.moe.names import SIDES


@dataclass(frozen=True)
class TokenCost:
    """FLOPs of a token's forward pass, and the parameters that take part in it."""

    flops: int
    activated: int


def cost_of_token(model: Mapping[str, Any], vocabulary: int, blocks: Mapping[str, Any]) -> TokenCost | None:
    """What a token costs, its FLOPs as ``smoe-mt flops RUN`` counts them; None for what cannot be counted.

    `blocks`: those of requested_capacity.json, with the mean hidden units of a token; empty for a dense model.
    """
    units = {
        side: [as_number(one.get("units")) for name, one in blocks.items() if name.startswith(side)] for side in SIDES
    }
    known = [value for side in units.values() for value in side]
    try:
        settings = OmegaConf.create(dataclasses.asdict(SMoETransformerConfig()) | dict(model))
        built = skeleton(settings, vocabulary)
        complete = {side: len(units[side]) == len(layers) for side, layers in built.moe_layers.items()}
        if None in known or not all(complete.values()):
            return None
        measured: Any = units if known else None
        flops = cost_of_model(built, vocabulary, units=measured).flops_per_token
        return TokenCost(flops, activated_parameters(built, measured))
    except UserError:
        return None
