"""Which strata each language uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import Figure, colour_bar, heat_map, length_of, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block, language and stratum."""
    return [
        [block.side, str(block), language, stratum, share]
        for block in report.visits.blocks
        for language, shares in report.load.by_stratum(block).items()
        for stratum, share in enumerate(shares.tolist(), start=1)
    ]


def draw(report: CapacityReport) -> Drawing:
    """A heat map for each block: languages by strata."""
    most = max(len(strata) for strata in report.load.strata.values())
    languages = max(len(report.load.languages(side)) for side in report.sides)
    height = 1.15 + length_of(max(languages, 3), 0.27)
    drawing, placed = panels(report, 1.2 + max(2.0, 0.6 * most), height, legend=0.9)
    shares = {block: report.load.by_stratum(block) for block in placed}
    top = max(float(each.max()) for block in shares.values() for each in block.values())
    image = None
    for block, panel in placed.items():
        names = [f"{stratum}\n({size})" for stratum, size in enumerate(report.load.strata[block], start=1)]
        values = [each.tolist() for each in shares[block].values()]
        image = heat_map(panel, values, list(shares[block]), names, top)
        panel.tick_params(axis="x", rotation=0)
        panel.set_xlabel("Stratum (its experts)", fontsize=9)
        panel.set_ylabel(f"{'Source' if block.side == 'encoder' else 'Target'} language", fontsize=9)
    colour_bar(drawing, image, list(placed.values()), "Share of the language's slots in the block")
    return drawing


FIGURE = Figure(
    name="stratum_load",
    title="Load of the strata by language",
    caption="Share of the slots that tokens of a language ask of the experts of each stratum, over all gates; a row adds up to "
    "100%. The language is the one that the side reads: the source in the encoder, the target in the decoder.",
    columns=("side", "block", "language", "stratum", "share_of_slots"),
    rows=rows,
    draw=draw,
    applies=lambda report: any(len(strata) > 1 for strata in report.load.strata.values()),
)
