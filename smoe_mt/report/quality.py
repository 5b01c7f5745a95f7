"""chrF++ against the FLOPs of a token: every setting of routing that a run was evaluated with, beside other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.analysis.figures.base import PALETTE, canvas, tidy
from smoe_mt.json_forms import as_number
from smoe_mt.report.content import Picture, Table
from smoe_mt.report.curve_figures import picture
from smoe_mt.report.run import Run
from smoe_mt.report.size import flops_of_result
from smoe_mt.scores_file import ROUTING, SEARCH, partial, unusual

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MILLION = 10**6
TITLE = "Quality and cost"
CAPTION = (
    "chrF++ (mean over the directions) against the FLOPs of a token, as each evaluation measured its routing on sources and "
    "outputs; attention is over these sentences, so the numbers are not those of the result. Colours are runs. The filled point is "
    "the routing of the training; a line joins it with the settings of one dial. With contrast both passes count."
)


@dataclass(frozen=True)
class Point:
    """A result: `setting` in words and `dial`, the names of what it sets, both empty for the routing of the training; FLOPs of a
    token; mean chrF++."""

    run: str
    setting: str
    dial: tuple[str, ...]
    flops: int
    chrf: float


def points_of(runs: Sequence[Run], split: str) -> list[Point]:
    """The results on all of a split with the usual search, whatever their routing, by run and cost.

    Results that measured no cost are left out: those of earlier versions, of ensembles, of experts spread over ranks.
    """
    found = []
    for run in runs:
        for scores in run.scores.values():
            flops = flops_of_result(run.model, run.vocabulary, scores)
            chrf = as_number((scores.get("mean") or {}).get("chrf"))
            if flops is not None and chrf is not None and _comparable(scores, split):
                dial = tuple(name for name, usual in ROUTING.items() if scores.get(name, usual) != usual)
                found.append(Point(run.name, unusual(scores, ROUTING), dial, flops, chrf))
    names = [run.name for run in runs]
    return sorted(found, key=lambda point: (names.index(point.run), point.flops, point.setting))


def _comparable(scores: Mapping[str, Any], split: str) -> bool:
    return scores.get("split") == split and not partial(scores) and not unusual(scores, SEARCH)


def quality_picture(points: Sequence[Point]) -> Picture:
    """The figure."""
    return picture("quality_and_cost", TITLE, CAPTION, _draw(points))


def quality_table(points: Sequence[Point]) -> Table:
    """The numbers of the figure."""
    rows = [
        [point.run, point.setting or "as trained", f"{point.flops / MILLION:,.3f}M", f"{point.chrf:.2f}"]
        for point in points
    ]
    return Table(("Run", "Routing", "FLOPs a token", "chrF++"), rows, name="quality and cost")


def _draw(points: Sequence[Point]) -> Drawing:
    drawing = canvas(7.0, 4.2)
    panel = drawing.subplots()
    for number, name in enumerate(dict.fromkeys(point.run for point in points)):
        mine = [point for point in points if point.run == name]
        colour = PALETTE[number % len(PALETTE)]
        label: str | None = name
        for dial in dict.fromkeys(point.dial for point in mine):
            line = [point for point in mine if point.dial in ((), dial)]
            x, y = [point.flops / MILLION for point in line], [point.chrf for point in line]
            panel.plot(
                x, y, color=colour, label=label, linewidth=1.0, marker="o", markersize=5, markerfacecolor="white"
            )
            label = None
        for point in mine:
            place = (point.flops / MILLION, point.chrf)
            if not point.dial:
                panel.plot(*place, color=colour, marker="o", markersize=6)
            panel.annotate(point.setting, place, xytext=(3, 4), textcoords="offset points", fontsize=7, color=colour)
    panel.set_xlabel("FLOPs of a token, in millions")
    panel.set_ylabel("chrF++")
    panel.margins(x=0.15, y=0.15)
    tidy(panel, "both")
    panel.legend(frameon=False, fontsize=8)
    return drawing
