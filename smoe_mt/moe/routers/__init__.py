"""Routers: who scores the experts of a gate, which of them a token chooses, and with which weights they are combined."""

from smoe_mt.moe.routers.base import Choices, Gate, Router, Selection, Weighting
from smoe_mt.moe.routers.override import routing_override
from smoe_mt.moe.routers.threshold import Threshold
from smoe_mt.moe.routers.top_k import RankK, TopK

__all__ = ["Choices", "Gate", "RankK", "Router", "Selection", "Threshold", "TopK", "Weighting", "routing_override"]
