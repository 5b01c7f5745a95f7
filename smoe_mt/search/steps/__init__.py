"""Where the scores of the next token come from: one model, an ensemble, or a model against itself."""

from smoe_mt.search.steps.base import StepScorer
from smoe_mt.search.steps.contrast import Contrast
from smoe_mt.search.steps.ensemble import Ensemble
from smoe_mt.search.steps.prepared import PreparedModel, scorer_of
from smoe_mt.search.steps.single import SingleModel

__all__ = ["Contrast", "Ensemble", "PreparedModel", "SingleModel", "StepScorer", "scorer_of"]
