"""Which experts each language uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import MANY, Figure, colour_bar, heat_map, length_of, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each block, language and expert."""
    stratum = {
        block: [number for number, size in enumerate(strata, start=1) for _ in range(size)]
        for block, strata in report.load.strata.items()
    }
    return [
        [block.side, str(block), language, expert + 1, stratum[block][expert], share]
        for block in report.visits.blocks
        for language, shares in report.load.by_language(block).items()
        for expert, share in enumerate(shares.tolist())
    ]


def draw(report: CapacityReport) -> Drawing:
    """A heat map for each block: languages by experts, strata apart."""
    most = max(sum(strata) for strata in report.load.strata.values())
    languages = max(len(report.load.languages(side)) for side in report.sides)
    height = 1.0 + length_of(max(languages, 3), 0.27)
    each = 0.36 if languages <= MANY else 0.22
    drawing, placed = panels(report, 1.2 + max(2.4, each * most), height, legend=0.9)
    shares = {block: report.load.by_language(block) for block in placed}
    top = max(float(each.max()) for block in shares.values() for each in block.values())
    image = None
    for block, panel in placed.items():
        strata = report.load.strata[block]
        experts = [str(number + 1) for number in range(sum(strata))]
        values = [each.tolist() for each in shares[block].values()]
        image = heat_map(panel, values, list(shares[block]), experts, top)
        for stratum in range(1, len(strata)):
            panel.axvline(sum(strata[:stratum]) - 0.5, color="white", linewidth=3)
        apart = "white lines: strata" if len(strata) > 1 else "all of one gate"
        panel.set_xlabel(f"Expert ({apart})", fontsize=9)
        panel.set_ylabel(f"{'Source' if block.side == 'encoder' else 'Target'} language", fontsize=9)
    colour_bar(drawing, image, list(placed.values()), "Share of the language's slots in the block")
    return drawing


FIGURE = Figure(
    name="expert_load",
    title="Expert load by language",
    caption="Share of the slots that tokens of a language ask of each expert of a block, over all gates; a row adds up to "
    "100%. The language is the one that the side reads: the source in the encoder, the target in the decoder.",
    columns=("side", "block", "language", "expert", "stratum", "share_of_slots"),
    rows=rows,
    draw=draw,
)
