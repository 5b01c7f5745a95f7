"""Drawings of training curves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.figures.base import PALETTE, as_bytes, canvas, tidy
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.names import SIDES, Block
from smoe_mt.moe.structure import groups_by_side
from smoe_mt.report.content import Picture, Text
from smoe_mt.report.curves import Curves, Series
from smoe_mt.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# Tags of the load of an expert: now, and in runs that 0.1.0 trained.
TAG = re.compile(r"load/(encoder|decoder)\.layers\.([0-9]{1,4})/gate([0-9]{1,4})/expert([0-9]{1,9})")
TAG_OF_0_1_0 = re.compile(r"load/(encoder|decoder)\.([0-9]{1,4})\.([0-9]{1,4})/expert([0-9]{1,9})")
ROUNDING = 1e-4  # in a recorded share
#: Block and gate (from 1) -> expert (from 1) -> its share over the updates.
Loads = dict[tuple[Block, int], dict[int, Series]]


@dataclass(frozen=True)
class Curve:
    """One value over the course of a training."""

    tag: str
    title: str
    axis: str
    caption: str
    parts: tuple[str, ...] = ("train_inner", "valid")


CURVES = (
    Curve("loss", "Loss", "Loss (bits per token)", "Label-smoothed cross-entropy, without the balance loss."),
    Curve(
        "balance_loss", "Balance loss", "Balance loss", "Mean over gates and blocks, before its weight; 1: experts are "
        "used evenly."
    ),
    Curve(
        "overflow", "Overflow", "Share of slots dropped", "Slots asked of an expert beyond its capacity. Validation drops "
        "nothing.", ("train_inner",)
    ),
    Curve("bleu", "BLEU in validation", "BLEU", "Mean over the directions.", ("valid",)),
)  # fmt: skip


def curve_pictures(curves: Mapping[str, Curves]) -> list[Picture]:
    """A figure for each value that any of the runs has, all runs in it."""
    pictures = []
    for curve in CURVES:
        if any(one.of(part, curve.tag) for one in curves.values() for part in curve.parts):
            drawing = _curve(curve, curves)
            caption = curve.caption + (" Solid: training, dashed: validation." if len(curve.parts) > 1 else "")
            pictures.append(picture(f"curve_{curve.tag}", curve.title, caption, drawing))
    return pictures


def picture(name: str, title: str, caption: str, drawing: Drawing) -> Picture:
    """A drawing as part of a report."""
    return Picture(name, title, caption, *(as_bytes(drawing, kind) for kind in ("svg", "png", "pdf")))


def _curve(curve: Curve, curves: Mapping[str, Curves]) -> Drawing:
    drawing = canvas(7.0, 3.6)
    panel = drawing.subplots()
    for number, (name, one) in enumerate(curves.items()):
        colour = PALETTE[number % len(PALETTE)]
        label: str | None = name
        for part in curve.parts:
            points = one.of(part, curve.tag)
            if not points:
                continue
            style: dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4} if part == "valid" else {}
            panel.plot(*zip(*points), color=colour, label=label, linewidth=1.5, **style)
            label = None
    panel.set_xlabel("Update")
    panel.set_ylabel(curve.axis)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    tidy(panel)
    panel.legend(frameon=False, fontsize=8)
    return drawing


def load_picture(run: Run, curves: Curves, number: int) -> Picture | Text:
    """The share of each expert at each gate over the training; or why there is nothing to see."""
    gates = loads_of(curves, int(run.model.get("moe_freq") or 1))
    if not gates:
        text = (
            f"{run.name}: no load of the experts was logged during training in {curves.source}; that needs "
            "common.tensorboard_logdir and at least common.log_interval updates."
        )
        return Text(text, missing=True)
    shown = {place: experts for place, experts in gates.items() if not is_constant(experts)}
    without = ", ".join(f"{block} gate {gate}" for block, gate in gates if (block, gate) not in shown)
    if not shown:
        return Text(f"{run.name}: every gate asks its experts evenly throughout, so their load has no figure.")
    caption = (
        "Share of a gate's slots that each of its experts is asked for, one line for each expert, coloured by stratum; dotted: "
        "even load."
    )
    if without:
        caption += f" Left out, for they choose all the experts that they see, evenly throughout: {without}."
    return picture(f"curve_load_{number}", f"Load of the experts: {run.name}", caption, _load(run, shown))


def is_constant(experts: Mapping[int, Series]) -> bool:
    """Whether every expert has the same share of its gate's slots throughout."""
    return all(abs(value - 1 / len(experts)) < ROUNDING for points in experts.values() for _, value in points)


def loads_of(curves: Curves, moe_freq: int) -> Loads:
    """The recorded loads, the encoder's first. `moe_freq` places the blocks of 0.1.0's tags, which counted blocks of a side."""
    found: Loads = {}
    for tag in curves.tags("train_inner", "load/"):
        new, old = TAG.fullmatch(tag), TAG_OF_0_1_0.fullmatch(tag)
        parts = new or old
        if parts is None:
            continue
        layer = int(parts[2]) + 1 if new else int(parts[2]) * moe_freq
        experts = found.setdefault((Block(parts[1], layer), int(parts[3])), {})
        expert = int(parts[4])  # of both tags, where a later version went on with the run
        experts[expert] = sorted([*experts.get(expert, []), *curves.of("train_inner", tag)])
    order = sorted(found, key=lambda place: (SIDES.index(place[0].side), place))
    return {place: dict(sorted(found[place].items())) for place in order}


def _load(run: Run, gates: Loads) -> Drawing:
    across = len({gate for _, gate in gates})
    if across == 1 or len(gates) % across:  # no block's gates in a row
        across = min(3, len(gates))
    down = -(-len(gates) // across)
    drawing = canvas(3.3 * across + 1.0, 2.2 * down + 0.3)
    grid = drawing.subplots(down, across, squeeze=False, sharex=True)
    shown: dict[int, Any] = {}
    for panel, ((block, gate), experts) in zip(grid.flat, gates.items()):
        for points, stratum in zip(experts.values(), strata_at(run.model, block, gate, len(experts))):
            (shown[stratum],) = panel.plot(*zip(*points), color=PALETTE[(stratum - 1) % len(PALETTE)], linewidth=1.2)
        panel.axhline(1 / len(experts), color="black", linewidth=0.8, linestyle=":")
        panel.set_title(f"{block}, gate {gate}", fontsize=9)
        panel.set_ylim(0, None)
        panel.yaxis.set_major_formatter("{x:.0%}")
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.tick_params(labelsize=8)
        tidy(panel)
    for panel in list(grid.flat)[len(gates) :]:
        panel.set_axis_off()
    drawing.supxlabel("Update", fontsize=9)
    drawing.supylabel("Share of the gate's slots", fontsize=9)
    handles = [shown[stratum] for stratum in sorted(shown)]
    names = [f"stratum {stratum}" for stratum in sorted(shown)]
    drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=8)
    return drawing


def strata_at(model: Mapping[str, Any], block: Block, gate: int, experts: int) -> list[int]:
    """The stratum of each expert that a gate of a block sees (both counted from 1)."""
    if not SYSTEMS[str(model["moe"])].nested:
        return [gate] * experts
    sizes = groups_by_side(model)[block.side][block.layer // int(model["moe_freq"]) - 1][gate - 1 :]
    return [stratum for stratum, size in enumerate(sizes, start=gate) for _ in range(size)]
