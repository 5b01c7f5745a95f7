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


def draw(report: CapacityReport, folder: Path) -> list[Path]:
    """Write both figures as PNG and SVG into `folder`; returns the paths."""
    return _save(by_direction(report), folder / "capacity_by_direction") + _save(
        by_block(report), folder / "capacity_by_block"
    )


def by_direction(report: CapacityReport) -> Figure:
    """A panel for the encoder and one for the decoder, a bar for each direction."""
    figure = _figure(width=max(4.5, 0.34 * len(report.directions) + 1.6) * len(report.sides))
    panels = figure.subplots(1, len(report.sides), sharey=True, squeeze=False)[0]
    for panel, side in zip(panels, report.sides):
        means = [report.visits.side_mean(side, direction) for direction in report.directions]
        _bars(panel, list(report.directions), means, [COLOURS[side]] * len(means))
        panel.set_title(_panel_title(report, side), fontsize=10)
        panel.tick_params(axis="x", rotation=90)
    _finish(figure, panels[0], report, "Requested capacity by direction")
    return figure


def _panel_title(report: CapacityReport, side: str) -> str:
    blocks = report.visits.side(side)
    collapsed = len([block for block in report.visits.collapsed() if block.side == side])
    title = f"{side.capitalize()}, mean of {len(blocks)} block" + ("s" if len(blocks) > 1 else "")
    return f"{title} ({collapsed} collapsed)" if collapsed else title


def by_block(report: CapacityReport) -> Figure:
    """A bar for each block, over the tokens of all directions; a collapsed block says so on its bar."""
    blocks = report.visits.blocks
    figure = _figure(width=max(4.5, 0.75 * len(blocks) + 2))
    panel = figure.subplots()
    means = [report.visits.mean(block) for block in blocks]
    names = [f"{block.side[:3]} {block.layer}" for block in blocks]
    _bars(panel, names, means, [COLOURS[block.side] for block in blocks])
    collapsed = report.visits.collapsed()
    for place, (block, mean) in enumerate(zip(blocks, means)):
        if block in collapsed:
            panel.text(
                place, (1 + mean) / 2 if mean > 1.3 else 1.15, "collapsed", rotation=90, ha="center", va="bottom"
            )
    panel.set_xlabel("Block (encoder or decoder, layer)")
    _finish(figure, panel, report, "Requested capacity by block")
    return figure


def _figure(width: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 3.8), layout="constrained")


def _bars(panel: Axes, names: list[str], means: list[float], colours: list[str]) -> None:
    """Bars that start at 1, the least that a token can request."""
    panel.bar(range(len(names)), [mean - 1 for mean in means], bottom=1, color=colours, width=0.75)
    panel.set_xticks(range(len(names)), names)
    for place, mean in enumerate(means):
        panel.annotate(f"{mean:.2f}", (place, mean), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)


def _finish(figure: Figure, left: Axes, report: CapacityReport, title: str) -> None:
    """The same axis for all: 1 visit to all strata, nothing cut off or blown up."""
    strata = report.visits.strata
    for panel in figure.axes:
        panel.set_ylim(1, strata + 0.08 * (strata - 1))
        panel.set_yticks(range(1, strata + 1))
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(f"Mean visits per token (1 to {strata})")
    figure.suptitle(f"{title}: {report.details['model']}, {report.details['split']}, teacher-forced", fontsize=11)


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
