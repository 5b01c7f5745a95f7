"""The figures of an analysis, in the order of a report. To add one: a file in this folder and a line below."""

from smoe_mt.analysis.figures import (
    capacity_by_block,
    capacity_by_direction,
    capacity_per_token,
    expert_load,
    gate_entropy,
    language_overlap,
    stratum_load,
    token_rank,
    units_by_direction,
)
from smoe_mt.analysis.figures.base import Figure

FIGURES: tuple[Figure, ...] = (
    capacity_by_direction.FIGURE,
    capacity_by_block.FIGURE,
    capacity_per_token.FIGURE,
    units_by_direction.FIGURE,
    token_rank.FIGURE,
    stratum_load.FIGURE,
    expert_load.FIGURE,
    gate_entropy.FIGURE,
    language_overlap.FIGURE,
)

__all__ = ["FIGURES", "Figure"]
