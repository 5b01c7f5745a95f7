"""How undecided the gates are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.figures.base import COLOURS, MANY, Figure, axis_name, canvas, tidy
from smoe_mt.moe.names import Block

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def rows(report: CapacityReport) -> list[list[Any]]:
    """A row for each gate and direction; the entropy is empty at a gate that no token of a direction reached."""
    return [
        [direction, block.side, str(block), gate, entropy, bound]
        for direction in report.directions
        for block in report.visits.blocks
        for gate, (entropy, bound) in enumerate(
            zip(report.entropy.means(block, direction), _bounds(report, block)), start=1
        )
    ]


def draw(report: CapacityReport) -> Drawing:
    """A bar for each gate, a dot in it for each direction, a line for the most that it could have."""
    places = [(block, gate) for block in report.visits.blocks for gate in range(len(_bounds(report, block)))]
    drawing = canvas(max(5.0, 0.5 * len(places) + 2.2), 4.0)
    panel = drawing.subplots()
    for x, (block, gate) in enumerate(places):
        mean, bound = report.entropy.means(block)[gate], _bounds(report, block)[gate]
        panel.bar(x, mean or 0.0, color=COLOURS[block.side], width=0.7, alpha=0.75)
        panel.hlines(bound, x - 0.42, x + 0.42, color="black", linewidth=1.5)
        found = [report.entropy.means(block, direction)[gate] for direction in report.directions]
        dots = [value for value in found if value is not None]
        few = len(dots) <= MANY
        across = (
            [x] * len(dots) if few else np.linspace(x - 0.3, x + 0.3, len(dots))
        )  # side by side, else they hide each other
        panel.plot(across, dots, "o", color="black", markersize=3 if few else 1.5, alpha=0.6)
    panel.set_xticks(range(len(places)), [f"{axis_name(block)}\ngate {gate + 1}" for block, gate in places])
    panel.tick_params(axis="x", labelsize=8)
    panel.set_ylabel("Mean entropy of the gate (nats)")
    panel.set_xlabel("Gate (of the block)\nbar: all tokens, dots: directions, line: largest possible", fontsize=9)
    panel.set_xlim(-0.6, len(places) - 0.4)
    panel.set_ylim(0, None)
    tidy(panel)
    return drawing


def _bounds(report: CapacityReport, block: Block) -> list[float]:
    """The entropy of even probabilities at each gate."""
    loads = next(iter(report.load.asked.values()))[block]
    return [math.log(len(gate)) for gate in loads]


FIGURE = Figure(
    name="gate_entropy",
    title="Gate entropy",
    caption="Mean entropy of each gate's distribution over the experts that it sees, in nats: 0 where it is sure of one "
    "expert, the black line where all are the same to it. Bars are over the tokens of all directions, dots single directions.",
    columns=("direction", "side", "block", "gate", "entropy_nats", "largest_possible_nats"),
    rows=rows,
    draw=draw,
)
