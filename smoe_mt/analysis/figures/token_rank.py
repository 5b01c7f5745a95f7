"""Frequency rank of the tokens that request least and most (the paper's figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import PALETTE, Figure, block_name, canvas, heading, tidy
from smoe_mt.analysis.tokens import HIGHEST, LOWEST, TOP
from smoe_mt.analysis.visits import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

GROUPS = {LOWEST: PALETTE[4], HIGHEST: PALETTE[5]}


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each direction, block, group and token."""
    return [
        [t.direction, t.block.side, t.block.layer, t.group, t.token, t.mean, t.count, t.frequency_rank]
        for t in report.extremes
    ]


def draw(report: CapacityReport) -> Drawing:
    """A panel for each block that varies; in it two violins for each direction."""
    blocks = _blocks(report)
    drawing = canvas(max(6.5, 0.62 * len(report.directions) + 1.4), 2.5 * len(blocks) + 1.5)
    grid = drawing.subplots(len(blocks), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for panel, block in zip(grid, blocks):
        panel.set_title(block_name(block), fontsize=10, loc="left")
        for shift, group in ((-0.2, LOWEST), (0.2, HIGHEST)):
            _violins(panel, report, block, group, shift)
        _axes(panel, report)
    where = f"; ranks in {report.details['ranks']}" if "ranks" in report.details else ""
    grid[-1].set_xlabel(f"Direction (source-target)\nat most {TOP} tokens a violin{where}", fontsize=9)
    handles = [_patch(colour, f"{group} mean requested capacity") for group, colour in GROUPS.items()]
    drawing.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    heading(drawing, report, "Frequency rank of the tokens\nthat request least and most")
    return drawing


def _violins(panel: Axes, report: CapacityReport, block: Block, group: str, shift: float) -> None:
    """On a logarithmic axis, by hand: matplotlib's violins are estimated on a linear one."""
    for place, direction in enumerate(report.directions):
        found = [
            t.frequency_rank for t in report.extremes if (t.direction, t.block, t.group) == (direction, block, group)
        ]
        if not found:
            continue
        values = np.log10(found)
        drawn = panel.violinplot([values], positions=[place + shift], widths=0.38, showextrema=False)
        for body in drawn["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=GROUPS[group], alpha=0.8, edgecolor="none")
        low, middle, high = np.percentile(values, [25, 50, 75])
        panel.vlines(place + shift, low, high, color="black", linewidth=2)
        panel.plot(place + shift, middle, "o", color="white", markeredgecolor="black", markersize=4)


def _axes(panel: Axes, report: CapacityReport) -> None:
    highest = max(t.frequency_rank for t in report.extremes)
    decades = range(int(np.ceil(np.log10(max(highest, 2)))) + 1)
    panel.set_yticks(list(decades), [f"{10**decade:,}" for decade in decades])
    panel.set_ylim(decades[-1] + 0.1, -0.2)  # the most frequent tokens on top
    panel.set_xticks(range(len(report.directions)), report.directions, rotation=90)
    panel.set_xlim(-0.6, len(report.directions) - 0.4)
    panel.set_ylabel("Frequency rank\n(1: most frequent)", fontsize=9)
    tidy(panel)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _blocks(report: CapacityReport) -> tuple[Block, ...]:
    """Blocks in which tokens differ: in a collapsed one there is no highest and lowest."""
    return tuple(block for block in report.visits.blocks if block not in report.visits.collapsed())


FIGURE = Figure(
    name="token_rank",
    title="Frequency rank of the tokens that request least and most",
    caption="Violins of the frequency rank of the 25 tokens with the lowest and the 25 with the highest mean requested "
    "capacity, for each block and direction (the paper's figure 3); the dot is the median, the bar goes from the first to "
    "the third quartile. Ranks are those of the language that the side reads. The tag of the target language is no text "
    "and is left out; </s> is a token. Tokens that are rare in this split are left out too, and among equal means chance "
    "decides.",
    columns=("direction", "side", "layer", "group", "token", "mean_visits", "count", "frequency_rank"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.varies and bool(report.extremes),
)
