"""Mean requested capacity of each block (the paper's figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.bars import bars, visits_axis
from smoe_mt.analysis.figures.base import COLOURS, Figure, axis_name, canvas, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block."""
    return [[block.side, str(block), report.visits.mean(block)] for block in report.visits.blocks]


def draw(report: CapacityReport) -> Drawing:
    """A bar for each block, over the tokens of all directions; a collapsed block says so over its bar."""
    blocks = report.visits.blocks
    drawing = canvas(width=max(4.5, 0.75 * len(blocks) + 2), height=3.8)
    panel = drawing.subplots()
    means = [report.visits.mean(block) for block in blocks]
    collapsed = report.visits.collapsed()
    labels = [f"{mean:.2f}" + ("\ncollapsed" if block in collapsed else "") for block, mean in zip(blocks, means)]
    names = [axis_name(block) for block in blocks]
    bars(panel, names, means, [COLOURS[block.side] for block in blocks], labels)
    visits_axis(panel, report.visits.most)
    tidy(panel)
    panel.set_xlabel("Block")
    panel.set_ylabel(f"Mean visits per token (1 to {report.visits.most})")
    return drawing


FIGURE = Figure(
    name="capacity_by_block",
    title="Requested capacity by block",
    caption="Mean number of strata that process a token in each block, over all directions, every token counting once (the "
    "paper's figure 4).",
    columns=("side", "block", "mean_visits_per_token"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.varies,
)
