"""What pruning did to a model: a table, the same as JSON, and a figure of similarities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import canvas, colour_bar, heat_map
from smoe_mt.pruning.plan import SetPlan
from smoe_mt.text_table import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """A model before or after: what its gates did with the text, its parameters, and those that a token activated on average."""

    report: CapacityReport
    parameters: int
    activated: int


def groups_table(plans: Sequence[Sequence[SetPlan]]) -> str:
    """A row for each set of experts: how many remain, and of which each is made. Experts count from 1."""
    rows = [["experts of", "before", "after", "groups", "dropped"]]
    for plan in (plan for block in plans for plan in block):
        groups = " ".join("+".join(str(e + 1) for e in group) for group in plan.groups)
        dropped = " ".join(str(e + 1) for e in plan.dropped)
        rows.append([plan.layout.name(plan.number), str(plan.counts.numel()), str(len(plan.groups)), groups, dropped])
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return "\n".join(aligned(rows, left=(0, 3, 4)))


def change_table(before: Measured, after: Measured) -> str:
    """Parameters, and of each block the mean visits and hidden units of a token, before and after."""
    rows = [["", "before", "after"]]
    rows.append(["parameters", *(f"{each.parameters:,}" for each in (before, after))])
    rows.append(["that a token activates", *(f"{each.activated:,}" for each in (before, after))])
    for block in before.report.visits.blocks:
        rows.append([f"mean visits, {block}", *(f"{each.report.visits.mean(block):.3f}" for each in (before, after))])
    for block in before.report.visits.blocks:
        rows.append(
            [f"mean hidden units, {block}", *(f"{each.report.units.mean(block):,.0f}" for each in (before, after))]
        )
    return "\n".join(aligned(rows))


def as_json(
    plans: Sequence[Sequence[SetPlan]], before: Measured, after: Measured, details: dict[str, Any]
) -> dict[str, Any]:
    """All numbers; experts count from 1."""
    return {
        "format": FORMAT,
        **details,
        "before": _measured(before),
        "after": _measured(after),
        "blocks": {str(block[0].layout.block): [_set(plan) for plan in block] for block in plans},
    }


def _measured(model: Measured) -> dict[str, Any]:
    report = model.report
    return {
        "parameters": model.parameters,
        "activated_parameters": model.activated,
        "visits": {str(block): report.visits.mean(block) for block in report.visits.blocks},
        "visits_by_direction": {
            direction: {side: report.visits.side_mean(side, direction) for side in report.sides}
            for direction in report.directions
        },
        "units": {str(block): report.units.mean(block) for block in report.visits.blocks},
    }


def _set(plan: SetPlan) -> dict[str, Any]:
    return {
        "groups": [[e + 1 for e in group] for group in plan.groups],
        "dropped": [e + 1 for e in plan.dropped],
        "shares": plan.alpha.tolist(),
        "slots_served": plan.counts.tolist(),
        "tokens_compared": plan.tokens,
        "similarity": None if plan.similarity is None else plan.similarity.tolist(),
    }


def similarity_figure(plans: Sequence[Sequence[SetPlan]]) -> Drawing:
    """A row of heat maps for each block, one for each set of its experts, whose groups stand together between white lines."""
    most = max(plan.counts.numel() for block in plans for plan in block)
    columns, each = max(map(len, plans)), 1.0 + max(1.4, 0.3 * most)
    drawing = canvas(each * columns + 0.9, each * len(plans) + 0.3)
    grid = drawing.subplots(len(plans), columns, squeeze=False)
    image, placed = None, []
    for panels, block in zip(grid, plans):
        for panel in panels[len(block) :]:
            panel.set_axis_off()
        for panel, plan in zip(panels, block):
            assert plan.similarity is not None
            order = [e for group in plan.groups for e in group]
            names = [str(e + 1) for e in order]
            values = plan.similarity[order][:, order].clamp(min=0.0).tolist()
            image = heat_map(panel, values, names, names, 1.0)
            place = -0.5
            for group in plan.groups[:-1]:
                place += len(group)
                panel.axvline(place, color="white", linewidth=2)
                panel.axhline(place, color="white", linewidth=2)
            panel.set_title(plan.layout.name(plan.number), fontsize=9)
            placed.append(panel)
    colour_bar(drawing, image, placed, "Similarity of experts")
    return drawing
