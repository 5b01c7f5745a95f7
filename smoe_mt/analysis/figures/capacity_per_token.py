"""How many tokens request how much: shares of tokens with 1..L visits in each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import HEAT, Figure, canvas, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block and number of visits."""
    return [
        [block.side, str(block), visits, share]
        for block in report.visits.blocks
        for visits, share in enumerate(report.visits.histogram(block), start=1)
    ]


def draw(report: CapacityReport) -> Drawing:
    """A bar for each block, in as many parts as there are numbers of visits."""
    from matplotlib import colormaps
    from matplotlib.ticker import PercentFormatter

    blocks, most = report.visits.blocks, report.visits.most
    drawing = canvas(width=6.5, height=1.6 + 0.42 * len(blocks))
    panel = drawing.subplots()
    shares = [report.visits.histogram(block) for block in blocks]
    start = [0.0] * len(blocks)
    for visits in range(1, most + 1):
        place = 1 - (visits - 1) / max(most - 1, 1)  # light for few, dark for many
        part = [share[visits - 1] for share in shares]
        panel.barh(range(len(blocks)), part, left=start, color=colormaps[HEAT](place), label=str(visits), height=0.7)
        for y, (width, left) in enumerate(zip(part, start)):
            if width >= 0.06:
                colour = "black" if place > 0.5 else "white"
                panel.text(left + width / 2, y, f"{width:.0%}", ha="center", va="center", fontsize=8, color=colour)
        start = [left + width for left, width in zip(start, part)]
    panel.set_yticks(range(len(blocks)), [str(block) for block in blocks])
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("Share of the tokens of all directions")
    panel.legend(title="Visits", ncols=1, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    tidy(panel, "x")
    return drawing


FIGURE = Figure(
    name="capacity_per_token",
    title="Requested capacity of single tokens",
    caption="Share of the tokens that are processed by 1, 2, ... strata of each block, over all directions.",
    columns=("side", "block", "visits", "share_of_tokens"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.varies,
)
