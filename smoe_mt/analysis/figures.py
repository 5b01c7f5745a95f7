"""Figures of requested capacity: per direction (the paper's figure 2) and per block (its figure 4)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from smoe_mt.analysis.capacity import CapacityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision can tell apart.
COLOURS = {"encoder": "#0072B2", "decoder": "#E69F00"}
FORMATS = ("png", "svg")
BESIDE = 12  # with more directions than these, the panels stand one over the other


def draw(report: CapacityReport, folder: Path) -> list[Path]:
    """Write both figures as PNG and SVG into `folder`; returns the paths."""
    return _save(by_direction(report), folder / "capacity_by_direction") + _save(
        by_block(report), folder / "capacity_by_block"
    )


def by_direction(report: CapacityReport) -> Figure:
    """A panel for the encoder and one for the decoder, a bar for each direction."""
    stacked = len(report.directions) > BESIDE
    rows, columns = (len(report.sides), 1) if stacked else (1, len(report.sides))
    figure = _figure(width=max(4.5, 0.34 * len(report.directions) + 1.6) * columns, height=3.4 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, side in zip(panels.flat, report.sides):
        means = [report.visits.side_mean(side, direction) for direction in report.directions]
        _bars(panel, list(report.directions), means, [COLOURS[side]] * len(means), [f"{mean:.2f}" for mean in means])
        panel.set_title(_panel_title(report, side), fontsize=10)
        panel.tick_params(axis="x", rotation=90)
    _finish(figure, list(panels[:, 0]), report, "Requested capacity by direction")
    return figure


def _panel_title(report: CapacityReport, side: str) -> str:
    blocks = report.visits.side(side)
    collapsed = len([block for block in report.visits.collapsed() if block.side == side])
    title = f"{side.capitalize()}, mean of {len(blocks)} block" + ("s" if len(blocks) > 1 else "")
    return f"{title} ({collapsed} collapsed)" if collapsed else title


def by_block(report: CapacityReport) -> Figure:
    """A bar for each block, over the tokens of all directions; a collapsed block says so over its bar."""
    blocks = report.visits.blocks
    figure = _figure(width=max(4.5, 0.75 * len(blocks) + 2), height=3.8)
    panel = figure.subplots()
    means = [report.visits.mean(block) for block in blocks]
    names = [f"{block.side[:3]} {block.layer}" for block in blocks]
    collapsed = report.visits.collapsed()
    labels = [f"{mean:.2f}" + ("\ncollapsed" if block in collapsed else "") for block, mean in zip(blocks, means)]
    _bars(panel, names, means, [COLOURS[block.side] for block in blocks], labels)
    panel.set_xlabel("Block (encoder or decoder, layer)")
    _finish(figure, [panel], report, "Requested capacity by block")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _bars(panel: Axes, names: list[str], means: list[float], colours: list[str], labels: list[str]) -> None:
    """Bars that start at 1, the least that a token can request."""
    panel.bar(range(len(names)), [mean - 1 for mean in means], bottom=1, color=colours, width=0.75)
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.7, len(names) - 0.3)
    for place, (mean, label) in enumerate(zip(means, labels)):
        panel.annotate(label, (place, mean), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)


def _finish(figure: Figure, left: list[Axes], report: CapacityReport, title: str) -> None:
    """The same axis for all: 1 visit to all strata, nothing cut off or blown up."""
    strata = report.visits.strata
    for panel in figure.axes:
        panel.set_ylim(1, strata + 0.15 * (strata - 1))
        panel.set_yticks(range(1, strata + 1))
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in left:
        panel.set_ylabel(f"Mean visits per token (1 to {strata})")
    figure.suptitle(f"{title}\n{report.details['model']}, {report.details['split']}, teacher-forced", fontsize=11)


def _save(figure: Figure, base: Path) -> list[Path]:
    from matplotlib import rc_context

    written = []
    for kind in FORMATS:
        path = base.with_suffix(f".{kind}")
        content = io.BytesIO()
        # A fixed salt and no date: the same numbers give the same bytes.
        with rc_context({"svg.hashsalt": "smoe_mt", "svg.fonttype": "none"}):
            figure.savefig(content, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
        written.append(path)
    return written
