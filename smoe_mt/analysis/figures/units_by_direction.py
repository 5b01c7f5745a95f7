"""Mean hidden units of experts that process a token of each direction: what it costs, where experts or choices differ."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import COLOURS, Figure, canvas, tidy
from smoe_mt.analysis.figures.capacity_by_direction import in_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each direction and block."""
    return [
        [direction, block.side, str(block), report.units.mean(block, direction)]
        for direction in report.directions
        for block in report.visits.blocks
    ]


def side_mean(report: CapacityReport, side: str, direction: str) -> float:
    """Mean over the blocks of encoder or decoder."""
    blocks = report.visits.side(side)
    return sum(report.units.mean(block, direction) for block in blocks) / len(blocks)


def draw(report: CapacityReport) -> Drawing:
    """A bar for each direction, from 0, in a panel for the encoder and one for the decoder, or several where they are many."""
    lines = in_lines(report.directions)
    places = list(itertools.product(report.sides, lines))
    drawing = canvas(max(4.5, 0.34 * len(lines[0]) + 1.6), 2.4 * len(places) + 0.4)
    panels = drawing.subplots(len(places), 1, sharey=True, squeeze=False).flat
    for panel, (side, line) in zip(panels, places):
        means = [side_mean(report, side, direction) for direction in line]
        panel.bar(range(len(line)), means, color=COLOURS[side], width=0.75)
        panel.set_xticks(range(len(line)), line, rotation=90)
        panel.set_xlim(-0.7, len(lines[0]) - 0.3)
        for place, mean in enumerate(means):
            panel.annotate(
                f"{mean:.0f}", (place, mean), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7
            )
        panel.margins(y=0.15)
        panel.set_title(side.capitalize(), fontsize=10)
        panel.set_ylabel("Hidden units\nper token and block", fontsize=9)
        tidy(panel)
    return drawing


FIGURE = Figure(
    name="units_by_direction",
    title="Hidden units by direction",
    caption="Mean number of hidden units of experts that process a token of a direction, over the blocks of a side: a visit counts "
    "with the size of all experts that it asks. The tag of the target language and </s> are counted.",
    columns=("direction", "side", "block", "mean_units_per_token"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.units.varies,
)
