"""What a token costs in a run's model: FLOPs and activated parameters, as its gates were measured to route."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from smoe_mt.analysis.cost import FITTED_CONTEXT, Cost, cost_of_model, skeleton
from smoe_mt.errors import UserError
from smoe_mt.json_forms import as_number
from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.models.sizes import activated_parameters
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.moe.names import SIDES


@dataclass(frozen=True)
class TokenCost:
    """FLOPs of a token's forward pass, and the parameters that take part in it."""

    flops: int
    activated: int


def cost_of_token(model: Mapping[str, Any], vocabulary: int, blocks: Mapping[str, Any]) -> TokenCost | None:
    """What a token costs, with attention over `FITTED_CONTEXT` positions; None for what cannot be counted.

    `blocks`: those of requested_capacity.json, with the mean hidden units of a token; empty for a dense model.
    """
    found = _measured(model, vocabulary, blocks)
    if found is None:
        return None
    built, units, cost = found
    return TokenCost(cost.flops_per_token, activated_parameters(built, units))


def flops_of_result(model: Mapping[str, Any], vocabulary: int, scores: Mapping[str, Any]) -> int | None:
    """FLOPs of a token as an evaluation measured them, both passes of a contrast together; None where it did not.

    Attention is that over the sentences that were translated, as ``smoe-mt flops RUN`` counts it.
    """
    measured = scores.get("measured")
    if not measured:
        return None
    strong = _measured(model, vocabulary, measured["blocks"], measured["context"])
    if strong is None or scores.get("contrast") is None:
        return None if strong is None else strong[2].flops_per_token
    weak = _measured(model, vocabulary, measured.get("weak_blocks", {}), measured["context"])
    if weak is None:
        return None
    shared = 0 if scores.get("contrast_encoder") else weak[2].encoder_flops
    return round(strong[2].flops_per_token + weak[2].flops_per_token - shared)


def _measured(
    model: Mapping[str, Any], vocabulary: int, blocks: Mapping[str, Any], context: int = FITTED_CONTEXT
) -> tuple[SMoETransformerModel, Any, Cost] | None:
    """The model without its weights, the units of its blocks and its cost; None where units of a block are missing."""
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
        return built, measured, cost_of_model(built, vocabulary, context, measured)
    except UserError:
        return None
