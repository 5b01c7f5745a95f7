"""Drawings of training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.figures.base import PALETTE, as_bytes, canvas, tidy
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.structure import groups_by_side
from smoe_mt.report.content import Picture
from smoe_mt.report.curves import Curves
from smoe_mt.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LOAD = "load/"


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
    return Picture(name, title, caption, as_bytes(drawing, "svg"), as_bytes(drawing, "png"))


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


def load_picture(run: Run, curves: Curves, number: int) -> Picture | None:
    """The share of each expert at each gate over the training, or None where it was not recorded."""
    gates: dict[str, list[str]] = {}
    for tag in curves.tags("train_inner", LOAD):
        gates.setdefault(tag.split("/")[1], []).append(tag)
    gates = {gate: tags for gate, tags in sorted(gates.items(), key=lambda item: item[0].startswith("decoder"))}
    if not gates:
        return None
    caption = (
        "Share of a gate's slots that each of its experts is asked for, one line for each expert, coloured by stratum; dotted: "
        "even load. Blocks are counted from the input on. A gate that sees as many experts as it chooses asks them evenly."
    )
    return picture(f"curve_load_{number}", f"Load of the experts: {run.name}", caption, _load(run, curves, gates))


def _load(run: Run, curves: Curves, gates: Mapping[str, Sequence[str]]) -> Drawing:
    across = max(int(gate.split(".")[2]) for gate in gates)
    across = across if across > 1 else min(3, len(gates))
    down = -(-len(gates) // across)
    drawing = canvas(3.3 * across + 1.0, 2.2 * down + 0.3)
    grid = drawing.subplots(down, across, squeeze=False, sharex=True)
    shown: dict[int, Any] = {}
    for panel, (gate, tags) in zip(grid.flat, gates.items()):
        side, block, at = gate.split(".")
        for tag, stratum in zip(tags, strata_at(run.model, side, int(block), int(at), len(tags))):
            (shown[stratum],) = panel.plot(
                *zip(*curves.of("train_inner", tag)), color=PALETTE[(stratum - 1) % len(PALETTE)], linewidth=1.2
            )
        panel.axhline(1 / len(tags), color="black", linewidth=0.8, linestyle=":")
        panel.set_title(f"{side.capitalize()}, block {block}, gate {at}", fontsize=9)
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


def strata_at(model: Mapping[str, Any], side: str, block: int, gate: int, experts: int) -> list[int]:
    """The stratum of each expert that a gate of a block sees (all counted from 1)."""
    if not SYSTEMS[str(model["moe"])].nested:
        return [gate] * experts
    sizes = groups_by_side(model)[side][block - 1][gate - 1 :]
    return [stratum for stratum, size in enumerate(sizes, start=gate) for _ in range(size)]
