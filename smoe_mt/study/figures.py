"""The figures of a study: learning curves, and the gain of each direction. Numbers are those of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smoe_mt.analysis.figures.base import FORMATS, PALETTE, canvas, save, tidy
from smoe_mt.study.capacity import Gains, gains_by_direction
from smoe_mt.study.plan import Plan, run_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def draw_all(plan: Plan, content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw into `folder`; returns what was written."""
    losses = content["validation_loss"]
    curves = {system: [losses[run_name(system, seed)] for seed in content["seeds"]] for system in plan.systems}
    drawings = {"learning_curves": learning_curves(curves), "gains": gains(plan, content)}
    if found := gains_by_direction(content):
        drawings["gains_and_capacity"] = gains_and_capacity(plan, found)
    if "costs" in content:
        drawings["quality_and_cost"] = quality_and_cost(content)
    for name, drawing in drawings.items():
        save(drawing, folder / name)
    return [folder / f"{name}.{kind}" for name in drawings for kind in FORMATS]


def learning_curves(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> Drawing:
    """Validation loss by updates, of each system: mean over its runs, and a band from the lowest to the highest."""
    drawing = canvas(7.0, 4.2)
    panel = drawing.subplots()
    for number, (system, runs) in enumerate(curves.items()):
        losses = [{update: loss for update, loss in run} for run in runs]
        updates = sorted(set.intersection(*(set(curve) for curve in losses)))
        values = np.array([[curve[update] for update in updates] for curve in losses])
        if not updates:
            continue
        colour = PALETTE[number % len(PALETTE)]
        panel.plot(updates, values.mean(0), color=colour, label=system, linewidth=1.5)
        panel.fill_between(updates, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    panel.set_xlabel("Update")
    panel.set_ylabel("Validation loss (bits per token)")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    tidy(panel)
    panel.legend(frameon=False, fontsize=8)
    return drawing


def quality_and_cost(content: Mapping[str, Any]) -> Drawing:
    """chrF++, its interval over seeds and sentences, against the measured FLOPs of a token; systems without the latter are left out.

    Points have numbers, in the order of the cost; the legend names them.
    """
    drawing = canvas(9.0, 5.0)
    panel = drawing.subplots()
    known = [(system, one["flops"] / 1e6) for system, one in content["costs"].items() if one["flops"]]
    for number, (system, flops) in enumerate(sorted(known, key=lambda one: one[1]), start=1):
        score = content["scores"]["chrf"][system]["all"]
        ends = [[max(0.0, score["mean"] - score["low"])], [max(0.0, score["high"] - score["mean"])]]
        style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "label": f"{number}  {system}"}
        panel.errorbar([flops], [score["mean"]], yerr=ends, fmt="o", markersize=4, linewidth=0.6, **style)
        panel.annotate(
            str(number),
            (flops, score["mean"]),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
            color=style["color"],
        )
    panel.set_xlabel("MFLOPs of a token, measured")
    panel.set_ylabel("chrF++ (95% interval over seeds and sentences)")
    tidy(panel, "both")
    panel.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def gains(plan: Plan, content: Mapping[str, Any]) -> Drawing:
    """Differences of chrF++ with their intervals over seeds and sentences: of all directions, of classes, of each direction."""
    comparisons = content["comparisons"]
    groups = [*comparisons[0]["differences"]["chrf"]]
    drawing = canvas(7.0, max(0.2, 0.1 * len(comparisons)) * len(groups) + 1.6)
    panel = drawing.subplots()
    step = 0.8 / len(comparisons)
    for number, one in enumerate(comparisons):
        found = [one["differences"]["chrf"][group] for group in groups]
        places = [place + (number - (len(comparisons) - 1) / 2) * step for place in range(len(groups))]
        means = [each["mean"] for each in found]
        ends = [[each["mean"] - each["low"] for each in found], [each["high"] - each["mean"] for each in found]]
        label = f"{one['system']} - {one['baseline']}"
        colour = PALETTE[number % len(PALETTE)]
        panel.errorbar(means, places, xerr=np.maximum(ends, 0), fmt="o", markersize=3, color=colour, label=label)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(groups)), groups)
    panel.invert_yaxis()
    panel.set_xlabel("Difference of chrF++ (95% interval over seeds and sentences)")
    tidy(panel, "x")
    panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def gains_and_capacity(plan: Plan, found: Sequence[Gains]) -> Drawing:
    """What a system with strata gains over the first baseline that it is compared with, against the visits that tokens request: a
    panel for each of its runs, a name for each direction, in the colour of its class.
    """
    rows: dict[str, list[Gains]] = {}
    for one in found:
        row = rows.setdefault(one.system, [])
        if not row or one.baseline == row[0].baseline:
            row.append(one)
    most = max(map(len, rows.values()))
    drawing = canvas(4.2 * most, 3.6 * len(rows) + 0.4)
    grid = drawing.subplots(len(rows), most, squeeze=False, sharey="row")
    for panels, runs in zip(grid, rows.values()):
        for panel, one in zip(panels, runs):
            _place_directions(panel, plan, one)
        panels[0].set_ylabel(f"chrF++ gained over {runs[0].baseline}")
        for panel in panels[len(runs) :]:
            panel.set_axis_off()
    return drawing


def _place_directions(panel: Axes, plan: Plan, one: Gains) -> None:
    class_of = {
        name: place for place, cls in enumerate(plan.classes) for name in plan.directions_of(cls, one.directions)
    }
    for name, x, y in zip(one.directions, one.visits, one.chrf):
        place = class_of.get(name, len(plan.classes))
        panel.plot(x, y, "o", color=PALETTE[place % len(PALETTE)], markersize=3)
        panel.annotate(name, (x, y), xytext=(2, 2), textcoords="offset points", fontsize=6)
    for place, name in enumerate(plan.classes):
        panel.plot([], [], "o", color=PALETTE[place % len(PALETTE)], markersize=3, label=name)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_title(one.run, fontsize=10)
    panel.set_xlabel("Visits that a token requests in the decoder")
    tidy(panel, "both")
    if plan.classes:
        panel.legend(frameon=False, fontsize=7)
