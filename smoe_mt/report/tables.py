"""Tables of a report: scores, scores with the paper's, the data card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smoe_mt.evaluation.metrics import METRICS
from smoe_mt.evaluation.table import BASELINE_METRIC, GROUP_TITLES
from smoe_mt.json_forms import as_number
from smoe_mt.paper.scores import TABLES
from smoe_mt.report.content import Table, Text
from smoe_mt.report.run import Run
from smoe_mt.report.size import flops_per_token
from smoe_mt.report.strata import Analysis

NONE = "–"
MANY = 30


def overview(runs: Sequence[Run]) -> Table:
    """A row for each run."""
    rows = [
        [run.name, run.row, f"{run.updates:,}", run.checkpoint.name, str(run.data), ", ".join(run.scores) or NONE]
        for run in runs
    ]
    return Table(("Run", "Model", "Updates", "Checkpoint", "Data folder", "Evaluated on"), rows, words=True)


def summary(runs: Sequence[Run], analyses: Mapping[str, Analysis | Text], split: str) -> Table:
    """A row for each run: size, FLOPs, scores, time."""
    chosen = [metric for metric in METRICS if metric.name in ("chrf", "bleu")]
    head = ("Run", "Model", "Parameters", "Of experts", "FLOPs a token", *(f"Mean {metric.title}" for metric in chosen))
    rows = []
    for run in runs:
        analysis = analyses.get(run.name)
        blocks = analysis.numbers["blocks"] if isinstance(analysis, Analysis) else {}
        flops = flops_per_token(run.model, run.vocabulary, blocks) if blocks or not run.sparse else None
        size = run.parameters or {}
        title, scores = _result_of(run, split)
        means = [number(_at(scores, ("mean", metric.name)), metric.decimals) for metric in chosen]
        cells = [_millions(size.get("total")), _millions(size.get("experts")), _millions(flops), *means]
        rows.append([run.name, run.row, *cells, title, _time(run.training_seconds), f"{run.updates:,}"])
    return Table((*head, "Scores of", "Training (h:min)", "Updates"), rows)


def _result_of(run: Run, split: str) -> tuple[str, Mapping[str, Any]]:
    """The scores of a split and their title: of all of it with the usual search, or else the first that there are."""
    found = {title: one for title, one in run.scores.items() if title == split or one.get("split") == split}
    title = split if split in found else next(iter(found), NONE)
    return title, found.get(title, {})


def _millions(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e6:,.3g}M" if value < 1e8 else f"{value / 1e6:,.0f}M"


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else f"{int(seconds / 60) // 60}:{int(seconds / 60) % 60:02}"


def scores_table(runs: Sequence[Run], split: str) -> Table:
    """A row for each direction and mean, all metrics of each run that was evaluated on the split; means first where directions
    are so many that they are scrolled.
    """
    scores = {run.name: run.scores[split] for run in runs if split in run.scores}
    directions = list(dict.fromkeys(direction for one in scores.values() for direction in one["directions"]))
    values = [entry for one in scores.values() for entry in one["directions"].values()]
    metrics = [m for m in METRICS if any(as_number(entry.get(m.name)) for entry in values)]  # no columns of zeros
    compared = next(metric for metric in METRICS if metric.name == BASELINE_METRIC)
    columns = ["Direction", f"copy {compared.title}"]
    columns += [f"{name}: {metric.title}" for name in scores for metric in metrics]
    each: list[tuple[tuple[str, ...], str]] = [(("directions", name), name) for name in directions]
    groups = _groups(scores.values())
    rows = []
    for path, title in groups + each if len(each) > MANY else each + groups:
        copied = [_at(one, ("baselines", "copy", *path, compared.name)) for one in scores.values()]
        cells = [number(next((value for value in copied if value is not None), None), compared.decimals)]
        cells += [number(_at(one, (*path, m.name)), m.decimals) for one in scores.values() for m in metrics]
        rows.append([title, *cells])
    means = frozenset(range(len(groups)) if len(each) > MANY else range(len(each), len(rows)))
    return Table(columns, rows, f"Split {split}", marked=means)


def _groups(scores: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, ...], str]]:
    """Means over all directions and over each resource class: where they lie in scores.json, and what they are called."""
    classes = dict.fromkeys(name for one in scores for name in one.get("classes", {}))
    everywhere: list[tuple[tuple[str, ...], str]] = [((group,), title) for group, title in GROUP_TITLES.items()]
    return everywhere + [
        (("classes", name, group), title.replace("mean", name))
        for name in classes
        for group, title in GROUP_TITLES.items()
    ]


def signatures(runs: Sequence[Run], split: str) -> str:
    """How the scores were computed, and with which search."""
    one = next(run.scores[split] for run in runs if split in run.scores)
    first: Mapping[str, Any] = next(iter(one["directions"].values()))
    found: Mapping[str, str] = first.get("signatures", {})
    parts = [f"{metric}: {signature}" for metric, signature in found.items()]
    return "; ".join([f"Beam {one.get('beam', '?')}", *parts]) + "."


def paper_table(runs: Sequence[Run], split: str, benchmark: str) -> Table:
    """The paper's rows, ours marked among them: each beside its own, models that the paper lacks at the end."""
    table = TABLES[benchmark]
    rows: list[list[str]] = []
    marked = set()
    ours = [run for run in runs if split in run.scores]
    for name, row in table.rows.items():
        rows.append([f"{row.title} (paper)", *(number(score, 2) for score in row.scores)])
        for run in (run for run in ours if run.row == name):
            marked.add(len(rows))
            rows.append(_our_row(run, split, benchmark))
    for run in (run for run in ours if run.row not in table.rows):
        marked.add(len(rows))
        rows.append(_our_row(run, split, benchmark))
    return Table(("BLEU", *(column.title for column in table.columns)), rows, table.title, frozenset(marked))


def _our_row(run: Run, split: str, benchmark: str) -> list[str]:
    columns = TABLES[benchmark].columns
    return [f"{run.row} (run {run.name})", *(number(column.of(run.scores[split]), 2) for column in columns)]


def pairs_table(card: Mapping[str, Any]) -> Table:
    """Sentence pairs of each language pair in each split."""
    splits = {split: counts for split, counts in card["splits"].items() if counts}
    rows = [[pair, *(_count(counts.get(pair)) for counts in splits.values())] for pair in card["pairs"]]
    total = ["all", *(_count(sum(counts.values())) for counts in splits.values())]
    if len(rows) > MANY:
        return Table(("Sentence pairs", *splits), [total, *rows], marked=frozenset({0}))
    return Table(("Sentence pairs", *splits), [*rows, total], marked=frozenset({len(rows)}))


def sources_table(card: Mapping[str, Any]) -> Table:
    """Where the text comes from, and under which licence."""
    keys = ("name", "version", "licence", "via")
    rows = [[str(source.get(key) or NONE) for key in keys] for source in card.get("sources", [])]
    return Table(("Source", "Version", "Licence", "Fetched by"), rows, "Sources", words=True)


def number(value: Any, decimals: int) -> str:
    """A number as a cell."""
    found = as_number(value)
    return NONE if found is None else f"{found:.{decimals}f}"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _at(content: Any, path: Sequence[str]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
