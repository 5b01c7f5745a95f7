"""Routers: how the experts of a gate are scored, which of them a token chooses, and with which weights they are combined."""

from smoe_mt.moe.losses import mean_over
from smoe_mt.moe.routers.base import Choices, MakeRouter, Router, Selection, Weighting, at_least_float32
from smoe_mt.moe.routers.capacity import BiasedStrata, MostVisits
from smoe_mt.moe.routers.forced_visits import ForcedVisits
from smoe_mt.moe.routers.gate import Gate
from smoe_mt.moe.routers.override import routing_override
from smoe_mt.moe.routers.threshold import Threshold
from smoe_mt.moe.routers.top_k import RankK, TopK
from smoe_mt.moe.routers.updates import after_update, forget_passes

__all__ = [
    "BiasedStrata",
    "Choices",
    "ForcedVisits",
    "Gate",
    "MakeRouter",
    "MostVisits",
    "RankK",
    "Router",
    "Selection",
    "Threshold",
    "TopK",
    "Weighting",
    "after_update",
    "at_least_float32",
    "forget_passes",
    "mean_over",
    "routing_override",
]
