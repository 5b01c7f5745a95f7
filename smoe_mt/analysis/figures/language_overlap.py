"""How alike languages use the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import Figure, colour_bar, heading, heat_map, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block and couple of languages."""
    table: list[list[Any]] = []
    for block in report.visits.blocks:
        languages, overlap = report.load.languages(block.side), report.load.overlap(block).tolist()
        table += [
            [block.side, block.layer, languages[one], languages[other], overlap[one][other]]
            for one in range(len(languages))
            for other in range(one + 1, len(languages))
        ]
    return table


def draw(report: CapacityReport) -> Drawing:
    """A heat map for each block: languages by languages."""
    size = 0.9 + 0.36 * max(max(len(report.load.languages(side)) for side in report.sides), 5)
    drawing, placed = panels(report, size + 0.4, size + 0.2, legend=0.9)
    image = None
    for block, panel in placed.items():
        languages = report.load.languages(block.side)
        image = heat_map(panel, report.load.overlap(block).tolist(), languages, languages, 1.0)
        kind = "Source" if block.side == "encoder" else "Target"
        panel.set_xlabel(f"{kind} language", fontsize=9)
        panel.set_ylabel(f"{kind} language", fontsize=9)
    colour_bar(drawing, image, list(placed.values()), "Overlap of expert use")
    heading(drawing, report, FIGURE.title)
    return drawing


FIGURE = Figure(
    name="language_overlap",
    title="Overlap of languages in expert use",
    caption="For two languages the sum over a block's experts of the smaller of their two shares of slots: 100% where they "
    "use the experts alike, 0% where they share none.",
    columns=("side", "layer", "language", "other_language", "overlap"),
    rows=rows,
    draw=draw,
)
