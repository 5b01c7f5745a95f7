"""How alike languages use the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import MANY, Figure, colour_bar, heat_map, length_of, panels
from smoe_mt.moe.names import Block

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block and couple of languages."""
    table: list[list[Any]] = []
    for block in report.visits.blocks:
        languages, overlap = report.load.languages(block.side), report.load.overlap(block).tolist()
        table += [
            [block.side, str(block), languages[one], languages[other], overlap[one][other]]
            for one in range(len(languages))
            for other in range(one + 1, len(languages))
        ]
    return table


def draw(report: CapacityReport) -> Drawing:
    """A heat map for each block: languages by languages."""
    size = 0.9 + length_of(max(max(len(report.load.languages(side)) for side in report.sides), 5), 0.36)
    drawing, placed = panels(report, size + 0.4, size + 0.2, legend=0.9)
    image = None
    for block, panel in placed.items():
        languages, overlap = report.load.languages(block.side), report.load.overlap(block)
        order = _order(report, block)
        names = [languages[place] for place in order]
        image = heat_map(panel, overlap[order][:, order].tolist(), names, names, 1.0)
        kind = "Source" if block.side == "encoder" else "Target"
        panel.set_xlabel(f"{kind} language", fontsize=9)
        panel.set_ylabel(f"{kind} language", fontsize=9)
    colour_bar(drawing, image, list(placed.values()), "Overlap of expert use")
    return drawing


def _order(report: CapacityReport, block: Block) -> list[int]:
    """Places of the languages: as they are, and if they are many, along the line on which their use differs most."""
    shares = torch.stack(list(report.load.by_language(block).values()))
    if len(shares) <= MANY:
        return list(range(len(shares)))
    main, _, _ = torch.linalg.svd(shares - shares.mean(dim=0), full_matrices=False)
    return main[:, 0].argsort().tolist()


FIGURE = Figure(
    name="language_overlap",
    title="Overlap of languages in expert use",
    caption="For two languages the sum over a block's experts of the smaller of their two shares of slots: 100% where they "
    "use the experts alike, 0% where they share none. "
    f"More than {MANY} languages stand in the order of the line (first principal component) on which their use differs most.",
    columns=("side", "block", "language", "other_language", "overlap"),
    rows=rows,
    draw=draw,
)
