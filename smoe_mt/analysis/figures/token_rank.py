"""Frequency rank of the tokens that request least and most (the paper's figure 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import MANY, PALETTE, Figure, canvas, tidy
from smoe_mt.analysis.tokens import HIGHEST, LOWEST, TOP
from smoe_mt.evaluation.scores import GROUPS as DIRECTION_GROUPS
from smoe_mt.evaluation.table import GROUP_TITLES
from smoe_mt.moe.names import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

GROUPS = {LOWEST: PALETTE[4], HIGHEST: PALETTE[5]}


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each direction, block, group and token."""
    return [
        [t.direction, t.block.side, str(t.block), t.group, t.token, t.mean, t.count, t.frequency_rank]
        for t in report.extremes
    ]


def draw(report: CapacityReport) -> Drawing:
    """A panel for each block that varies; in it two violins for each direction, or each group of them where they are many."""
    blocks, columns = _blocks(report), _columns(report)
    drawing = canvas(max(6.5, 0.62 * len(columns) + 1.4), 2.5 * len(blocks) + 1.5)
    grid = drawing.subplots(len(blocks), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    ranks: dict[tuple[str, Block, str], list[int]] = defaultdict(list)
    for token in report.extremes:
        ranks[token.direction, token.block, token.group].append(token.frequency_rank)
    for panel, block in zip(grid, blocks):
        panel.set_title(str(block), fontsize=10, loc="left")
        for shift, group in ((-0.2, LOWEST), (0.2, HIGHEST)):
            for place, directions in enumerate(columns.values()):
                found = [rank for direction in directions for rank in ranks[direction, block, group]]
                _violin(panel, found, place + shift, GROUPS[group])
        _axes(panel, report, list(columns))
    where = f"; ranks in {report.details['ranks']}" if "ranks" in report.details else ""
    kind = "Direction (source-target)" if len(columns) == len(report.directions) else "Directions (their number)"
    grid[-1].set_xlabel(f"{kind}\nat most {TOP} tokens a direction and violin{where}", fontsize=9)
    handles = [_patch(colour, f"{group} mean requested capacity") for group, colour in GROUPS.items()]
    drawing.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return drawing


def _columns(report: CapacityReport) -> dict[str, Sequence[str]]:
    """The directions whose tokens a pair of violins shows, by the name that it gets."""
    if len(report.directions) <= MANY:
        return {direction: (direction,) for direction in report.directions}
    groups = {
        GROUP_TITLES[group].replace("mean", "").strip() or "all": [each for each in report.directions if is_in(each)]
        for group, is_in in DIRECTION_GROUPS.items()
    }
    return {f"{name} ({len(directions)})": directions for name, directions in groups.items() if directions}


def _violin(panel: Axes, ranks: Sequence[int], place: float, colour: str) -> None:
    """On a logarithmic axis, by hand: matplotlib's violins are estimated on a linear one."""
    if not ranks:
        return
    values = np.log10(ranks)
    drawn = panel.violinplot([values], positions=[place], widths=0.38, showextrema=False)
    for body in drawn["bodies"]:  # type: ignore[attr-defined]
        body.set(facecolor=colour, alpha=0.8, edgecolor="none")
    low, middle, high = np.percentile(values, [25, 50, 75])
    panel.vlines(place, low, high, color="black", linewidth=2)
    panel.plot(place, middle, "o", color="white", markeredgecolor="black", markersize=4)


def _axes(panel: Axes, report: CapacityReport, names: Sequence[str]) -> None:
    highest = max(t.frequency_rank for t in report.extremes)
    decades = range(int(np.ceil(np.log10(max(highest, 2)))) + 1)
    panel.set_yticks(list(decades), [f"{10**decade:,}" for decade in decades])
    panel.set_ylim(decades[-1] + 0.1, -0.2)  # the most frequent tokens on top
    panel.set_xticks(range(len(names)), names, rotation=90 if len(names) > 3 else 0)
    panel.set_xlim(-0.6, len(names) - 0.4)
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
    "capacity, for each block and direction (the paper's figure 3); where there are more directions than "
    f"{MANY}, those to and from English are shown together. The dot is the median, the bar goes from the first to "
    "the third quartile. Ranks are those of the language that the side reads. The tag of the target language is no text "
    "and is left out; </s> is a token. Tokens that are rare in this split are left out too, and among equal means chance "
    "decides.",
    columns=("direction", "side", "block", "group", "token", "mean_visits", "count", "frequency_rank"),
    rows=rows,
    draw=draw,
    applies=lambda report: report.varies and bool(report.extremes),
)
