"""Comparisons of systems for a terminal: a table for each system, and a sentence that says which is better and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smoe_mt.evaluation.metrics import METRICS
from smoe_mt.evaluation.significance import BETTER, EQUAL, LEVEL, POOLED, UNDECIDED, WORSE, Comparison
from smoe_mt.text_table import aligned

TITLES = {metric.name: metric.title for metric in METRICS}


def comparison_report(
    comparisons: Sequence[Comparison],
    baseline: str,
    resamples: int,
    updates: Mapping[str, int] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """Every system against the baseline: score, difference, p and a word for each direction and metric; then in words.

    `updates` of each system's checkpoint; `remarks`: what makes them unlike.
    """
    parts = []
    for system in dict.fromkeys(one.system for one in comparisons):
        own = [one for one in comparisons if one.system == system]
        title = f"{_named(system, updates or {})} against {_named(baseline, updates or {})} (paired bootstrap resampling by sacreBLEU, {resamples} resamples)"
        parts.append("\n".join([title, *_table(own), *_sentences(own, baseline)]))
    parts.append("\n".join([*remarks, *_remarks(comparisons)]))
    return "\n\n".join(parts)


def _named(system: str, updates: Mapping[str, int]) -> str:
    return f"{system} (update {updates[system]:,})" if system in updates else system


def _table(comparisons: Sequence[Comparison]) -> list[str]:
    metrics = list(dict.fromkeys(one.metric for one in comparisons))
    rows = [["", *(cell for metric in metrics for cell in (TITLES[metric], "delta", "p", ""))]]
    for direction in dict.fromkeys(one.direction for one in comparisons):
        cells = {one.metric: _cells(one) for one in comparisons if one.direction == direction}
        rows.append([direction, *(cell for metric in metrics for cell in cells[metric])])
    return aligned(rows, left=range(0, len(rows[0]), 4))


def _cells(one: Comparison) -> tuple[str, str, str, str]:
    p = "-" if one.p_value is None else f"{one.p_value:.3f}"
    return f"{one.score:.1f}", f"{one.delta:+.2f}", p, one.verdict


def _sentences(comparisons: Sequence[Comparison], baseline: str) -> list[str]:
    """For each metric one line: the verdict over all, and the directions with each verdict."""
    lines = []
    for metric in dict.fromkeys(one.metric for one in comparisons):
        own = [one for one in comparisons if one.metric == metric]
        overall = own[-1]  # all sentences, or the only direction
        directions = [one for one in own if one.direction != POOLED]
        where = "; ".join(
            f"{verdict} in {len(names)} of {len(directions)} ({', '.join(names)})"
            for verdict in (BETTER, WORSE, UNDECIDED, EQUAL)
            if (names := [one.direction for one in directions if one.verdict == verdict])
        )
        p = "" if overall.p_value is None else f", p = {overall.p_value:.3f}"
        lines.append(
            f"{TITLES[metric]}: {overall.system} {_OVERALL[overall.verdict].format(baseline)} on {overall.direction} "
            f"({overall.delta:+.2f}{p}). By direction: {where}."
        )
    return lines


_OVERALL = {
    BETTER: f"is better than {{}} at p < {LEVEL}",
    WORSE: f"is worse than {{}} at p < {LEVEL}",
    UNDECIDED: "is not shown to differ from {}",
    EQUAL: "scores as {} does",
}


def _remarks(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader has to know: signatures, samples of sentences, many tests."""
    lines = list(dict.fromkeys(f"{one.metric}: {one.signature}" for one in comparisons))
    sampled = next((one for one in comparisons if one.tested < one.sentences), None)
    if sampled:
        lines.append(f"{sampled.direction}: tested on {sampled.tested:,} of {sampled.sentences:,}, evenly spaced")
    if len({one.direction for one in comparisons}) > 1:
        lines.append(f"each row is a test of its own: of equal systems about {LEVEL:.0%} of rows differ by chance")
    return lines
