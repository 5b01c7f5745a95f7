"""What a figure is, how it is written, and what all of them look like."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.files import write_bytes, write_json, write_text
from smoe_mt.moe.names import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# Okabe and Ito's palette, which people with any colour vision can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
COLOURS = {"encoder": PALETTE[0], "decoder": PALETTE[1]}
HEAT = "cividis"  # made for all kinds of colour vision
FORMATS = ("png", "svg", "pdf")  # to look at, for pages, for papers
UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
LARGE = 24  # inches; a figure longer or wider than this gets fewer dots an inch
PAGE = 16  # inches; panels that would be wider side by side stand one over the other
CLOSE = 0.14  # inches between names that are many
MANY = 40  # languages or directions; more of them are drawn closer together, without numbers


@dataclass(frozen=True)
class Figure:
    """A figure, and the numbers that it shows.

    caption  what the axes mean, for a report
    applies  whether there is anything to see in this report
    columns  names of the columns of its table, with units where there are any
    rows     the table
    draw     the drawing
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Callable[[CapacityReport], list[list[Any]]]
    draw: Callable[[CapacityReport], Drawing]
    applies: Callable[[CapacityReport], bool] = lambda report: True

    def write(self, report: CapacityReport, folder: Path) -> list[Path]:
        """PNG, SVG, PDF, CSV and JSON in `folder`; returns the paths. Nothing, and what an earlier report left is removed, where
        it does not apply."""
        paths = [folder / f"{self.name}.{kind}" for kind in (*FORMATS, "csv", "json")]
        for path in paths:
            path.unlink(missing_ok=True)
        if not self.applies(report):
            return []
        rows = self.rows(report)
        save(self.draw(report), folder / self.name)
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([self.columns, *([_cell(v) for v in row] for row in rows)])
        write_text(folder / f"{self.name}.csv", stream.getvalue())
        records = [dict(zip(self.columns, row, strict=True)) for row in rows]
        about = {name: report.details[name] for name in ("model", "split")}
        content = {"title": self.title, "caption": self.caption, **about, "rows": records}
        write_json(folder / f"{self.name}.json", content)
        return paths


def _cell(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value


def canvas(width: float, height: float) -> Drawing:
    """An empty drawing, in inches."""
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout="constrained")


def axis_name(block: Block) -> str:
    """The block's name in two lines, for an axis with many of them."""
    return str(block).replace(".", "\n.", 1)


def panels(
    report: CapacityReport, width: float, height: float, legend: float = 0.0
) -> tuple[Drawing, dict[Block, Axes]]:
    """A drawing with a panel of `width` x `height` inches for each block: a row for each side, layers from left to right; a
    column of all where that is wider than a page.
    """
    rows = [report.visits.side(side) for side in report.sides]
    if width * max(map(len, rows)) > PAGE:
        rows = [(block,) for blocks in rows for block in blocks]
    most = max(map(len, rows))
    drawing = canvas(width * most + legend, height * len(rows) + 0.5)
    grid = drawing.subplots(len(rows), most, squeeze=False)
    placed = {}
    for row, blocks in zip(grid, rows):
        for panel, block in zip(row, blocks):
            panel.set_title(str(block), fontsize=10)
            placed[block] = panel
        for panel in row[len(blocks) :]:
            panel.set_axis_off()
    return drawing, placed


def length_of(names: int, each: float) -> float:
    """Inches of an axis with so many names, `each` as long where they are few."""
    return (each if names <= MANY else CLOSE) * names


def heat_map(
    panel: Axes, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], top: float
) -> Any:
    """Squares coloured from 0 to `top`, with their value in percent where they are few; returns what a colour bar needs."""
    image = panel.imshow(values, cmap=HEAT, vmin=0, vmax=top, aspect="auto")
    upright = max(map(len, columns)) >= 4 or len(columns) > MANY
    panel.set_xticks(range(len(columns)), columns, rotation=90 if upright else 0)
    panel.set_yticks(range(len(rows)), rows)
    panel.tick_params(length=0)
    for axis, names in (("x", columns), ("y", rows)):
        panel.tick_params(axis, labelsize=8 if len(names) <= MANY else 7)  # type: ignore[arg-type]
    panel.spines[:].set_visible(False)
    if len(rows) * len(columns) <= 320 and len(rows) <= MANY:
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                colour = "white" if value < 0.55 * top else "black"
                panel.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return image


def colour_bar(drawing: Drawing, image: Any, placed: Sequence[Axes], label: str) -> None:
    """A scale in percent beside the panels."""
    from matplotlib.ticker import PercentFormatter

    height = drawing.get_figheight()
    shrink, middle = (
        (0.3 * PAGE / height, 1.0) if height > PAGE else (0.9, 0.5)
    )  # beside the first panels, not a mile long
    percent = PercentFormatter(1.0, decimals=0)
    bar = drawing.colorbar(image, ax=list(placed), format=percent, shrink=shrink, anchor=(0, middle), pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]


def tidy(panel: Axes, grid: str = "y") -> None:
    """Thin grid lines behind the data, no box around it."""
    panel.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def save(drawing: Drawing, base: Path) -> None:
    """A file of each of `FORMATS`, each whole or not at all. A drawing has no title of its own: a page or paper gives it one."""
    for kind in FORMATS:
        write_bytes(base.with_name(f"{base.name}.{kind}"), as_bytes(drawing, kind))


def as_bytes(drawing: Drawing, kind: str) -> bytes:
    """The drawing as a file of this kind; the same numbers give the same bytes."""
    from matplotlib import rc_context

    content = io.BytesIO()
    dpi = 200 if max(drawing.get_size_inches()) <= LARGE else 100
    with rc_context({"svg.hashsalt": "smoe_mt", "svg.fonttype": "none", "pdf.fonttype": 42}):
        drawing.savefig(content, format=kind, dpi=dpi, metadata=UNDATED.get(kind))
    return content.getvalue()
