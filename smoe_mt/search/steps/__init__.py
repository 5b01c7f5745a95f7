"""Where the scores of the next token come from: one model or an ensemble."""

from smoe_mt.search.steps.base import StepScorer
from smoe_mt.search.steps.ensemble import Ensemble
from smoe_mt.search.steps.single import SingleModel

__all__ = ["Ensemble", "SingleModel", "StepScorer"]
