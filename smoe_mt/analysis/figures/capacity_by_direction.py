"""Mean requested capacity of each direction, encoder and decoder apart (the paper's figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.bars import bars, visits_axis
from smoe_mt.analysis.figures.base import COLOURS, Figure, canvas, heading, tidy

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
    """A panel for the encoder and one for the decoder, a bar for each direction."""
    stacked = len(report.directions) > BESIDE
    grid = (len(report.sides), 1) if stacked else (1, len(report.sides))
    width = max(4.5, 0.34 * len(report.directions) + 1.6)
    drawing = canvas(width * grid[1], 3.4 * grid[0] + 0.4)
    for place, (panel, side) in enumerate(zip(drawing.subplots(*grid, sharey=True, squeeze=False).flat, report.sides)):
        means = [report.visits.side_mean(side, direction) for direction in report.directions]
        bars(panel, report.directions, means, [COLOURS[side]] * len(means), [f"{mean:.2f}" for mean in means])
        visits_axis(panel, report.visits.strata)
        tidy(panel)
        panel.set_title(_title(report, side), fontsize=10)
        panel.tick_params(axis="x", rotation=90)
        panel.set_xlabel("Direction (source-target)")
        if stacked or not place:
            panel.set_ylabel(f"Mean visits per token (1 to {report.visits.strata})")
    heading(drawing, report, FIGURE.title)
    return drawing


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
