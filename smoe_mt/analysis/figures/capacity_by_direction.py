"""Mean requested capacity of each direction, encoder and decoder apart (the paper's figure 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.bars import bars, visits_axis
from smoe_mt.analysis.figures.base import COLOURS, MANY, Figure, canvas, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

BESIDE = 12  # with more directions than these, the panels stand one over the other


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each direction and side."""
    visits = report.visits
    return [
        [direction, side, visits.side_mean(side, direction), visits.tokens(side, direction)]
        for direction in report.directions
        for side in report.sides
    ]


def draw(report: CapacityReport) -> Drawing:
    """A bar for each direction, in a panel for the encoder and one for the decoder, or several where directions are many."""
    lines = in_lines(report.directions)
    stacked = len(report.directions) > BESIDE
    grid = (len(report.sides) * len(lines), 1) if stacked else (1, len(report.sides))
    width = max(4.5, 0.34 * len(lines[0]) + 1.6)
    drawing = canvas(width * grid[1], (3.4 if len(lines) == 1 else 2.2) * grid[0] + 0.4)
    panels = drawing.subplots(*grid, sharey=True, squeeze=False).flat
    for place, (panel, (side, line)) in enumerate(zip(panels, itertools.product(report.sides, lines))):
        means = [report.visits.side_mean(side, direction) for direction in line]
        bars(panel, line, means, [COLOURS[side]] * len(means), [f"{mean:.2f}" for mean in means])
        panel.set_xlim(-0.7, len(lines[0]) - 0.3)
        visits_axis(panel, report.visits.most)
        tidy(panel)
        panel.tick_params(axis="x", rotation=90)
        if line is lines[0]:
            panel.set_title(_title(report, side), fontsize=10)
        if line is lines[-1]:
            panel.set_xlabel("Direction (source-target)")
        if stacked or not place:
            panel.set_ylabel(f"Mean visits per token\n(1 to {report.visits.most})", fontsize=9)
    return drawing


def in_lines(directions: Sequence[str]) -> list[Sequence[str]]:
    """The directions in as many parts of equal length as they do not fit into one, the last with what is left."""
    each = -(-len(directions) // -(-len(directions) // MANY))
    return [directions[start : start + each] for start in range(0, len(directions), each)]


def _title(report: CapacityReport, side: str) -> str:
    blocks = report.visits.side(side)
    collapsed = len([block for block in report.visits.collapsed() if block.side == side])
    title = f"{side.capitalize()}, mean of {len(blocks)} block" + ("s" if len(blocks) > 1 else "")
    return f"{title} ({collapsed} collapsed)" if collapsed else title


FIGURE = Figure(
    name="capacity_by_direction",
    title="Requested capacity by direction",
    caption="Mean number of strata that process a token of a direction, over the blocks of a side (the paper's figure 2). "
    "The tag of the target language and </s> are counted.",
    columns=("direction", "side", "mean_visits_per_token", "tokens"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.varies,
)
