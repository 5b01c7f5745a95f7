"""Tables of a report: scores, scores with the paper's, the data card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from smoe_mt.evaluation.metrics import METRICS
from smoe_mt.evaluation.significance import Comparison
from smoe_mt.evaluation.table import BASELINE_METRIC, GROUP_TITLES
from smoe_mt.json_forms import as_number
from smoe_mt.paper.scores import TABLES
from smoe_mt.report.content import Table, Text
from smoe_mt.report.run import Run
from smoe_mt.report.size import cost_of_token
from smoe_mt.report.strata import Analysis

NONE = "–"
MANY = 20  # rows that a page shows without scrolling them


def overview(runs: Sequence[Run]) -> Table:
    """A row for each run."""
    rows = [
        [run.name, run.row, f"{run.updates:,}", run.checkpoint.name, str(run.data), ", ".join(run.scores) or NONE]
        for run in runs
    ]
    return Table(
        ("Run", "Model", "Updates", "Checkpoint", "Data folder", "Evaluated on"), rows, name="runs", words=True
    )


def summary(
    runs: Sequence[Run],
    analyses: Mapping[str, Analysis | Text],
    split: str,
    differences: Mapping[str, Comparison] | None = None,
) -> Table:
    """A row for each run: scores, size, FLOPs, time. `differences`: of later runs from the first, by name."""
    by_name = {metric.name: metric for metric in METRICS}
    head = [
        f"{by_name['chrf'].title}",
        "Difference (p)",
        by_name["bleu"].title,
        "Parameters",
        "Of experts",
        "Activated",
    ]
    head += ["FLOPs a token", "Training (h:min)", "Scores of", "Model", "Updates"]
    rows = []
    for number_of_run, run in enumerate(runs):
        analysis = analyses.get(run.name)
        blocks = analysis.numbers["blocks"] if isinstance(analysis, Analysis) else {}
        cost = cost_of_token(run.model, run.vocabulary, blocks) if blocks or not run.sparse else None
        size = run.parameters or {}
        title, result = run.result_of(split) or (NONE, None)
        means = {name: _at(result and result.scores, ("mean", name)) for name in ("chrf", "bleu")}
        scores = [number(mean, by_name[name].decimals) for name, mean in means.items()]
        difference = _difference((differences or {}).get(run.name)) if number_of_run else "(first run)"
        per_token = (cost.activated, cost.flops) if cost else (None, None)
        sizes: list[float | None] = [size.get("total"), size.get("experts"), *per_token]
        cells = [scores[0], difference, scores[1], *map(_millions, sizes), _time(run.training_seconds)]
        rows.append([run.name, *cells, title, run.row, f"{run.updates:,}"])
    minor = frozenset(1 + head.index(name) for name in ("Of experts", "Scores of", "Model", "Updates"))
    best = best_of_columns(rows, {1: max, 3: max, 4: min, 6: min, 7: min})
    table = Table(("Run", *head), rows, name="result", minor=minor, best=best)
    return table if len(runs) > 1 else _without(table, 1 + head.index("Difference (p)"))


def _difference(one: Comparison | None) -> str:
    if one is None:
        return NONE
    return "0.0 (equal)" if one.p_value is None else f"{one.delta:+.1f} ({one.p_value:.3f})".replace("-", "\u2212")


def _without(table: Table, column: int) -> Table:
    """The table without a column."""
    rows = [[*row[:column], *row[column + 1 :]] for row in table.rows]
    columns = [*table.columns[:column], *table.columns[column + 1 :]]
    minor = frozenset(at - (at > column) for at in table.minor)
    return replace(table, columns=columns, rows=rows, minor=minor)


def best_of_columns(
    rows: Sequence[Sequence[str]], columns: Mapping[int, Callable[[Iterable[float]], float]]
) -> frozenset[tuple[int, int]]:
    """The cells of `columns` that hold its best number as shown, by row and column; none where all are equal."""
    found = set()
    for column, choose in columns.items():
        values = {place: value for place, row in enumerate(rows) if (value := _shown_number(row[column])) is not None}
        if len(set(values.values())) > 1:
            best = choose(values.values())
            found |= {(place, column) for place, value in values.items() if value == best}
    return frozenset(found)


def best_of_rows(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> frozenset[tuple[int, int]]:
    """The cells with the highest number of each row among `columns`."""
    turned = [[row[column] for row in rows] for column in columns]
    best = best_of_columns(turned, dict.fromkeys(range(len(rows)), max)) if turned else frozenset()
    return frozenset((row, columns[column]) for column, row in best)


def _shown_number(cell: str) -> float | None:
    try:
        return float(cell.replace(",", "").removesuffix("M"))
    except ValueError:
        return None


def _millions(value: float | None) -> str:
    if not value:
        return NONE
    decimals = 2 if value < 1e7 else 1 if value < 1e8 else 0
    return f"{value / 1e6:,.{decimals}f}M"


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
    minor = {1, *(2 + place for place in range(len(columns) - 2) if metrics[place % len(metrics)].scorer is None)}
    best: frozenset[tuple[int, int]] = frozenset()
    for place, metric in enumerate(metrics):
        if metric.scorer is not None:
            best |= best_of_rows(rows, [2 + run * len(metrics) + place for run in range(len(scores))])
    title = f"Split {split}"
    return Table(columns, rows, title, name=f"scores of {split}", marked=means, best=best, minor=frozenset(minor))


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
    return Table(
        ("BLEU", *(column.title for column in table.columns)),
        rows,
        table.title,
        name=f"beside the paper {benchmark}",
        marked=frozenset(marked),
    )


def _our_row(run: Run, split: str, benchmark: str) -> list[str]:
    columns = TABLES[benchmark].columns
    return [f"{run.row} (run {run.name})", *(number(column.of(run.scores[split]), 2) for column in columns)]


def pairs_table(card: Mapping[str, Any]) -> Table:
    """Sentence pairs of each language pair in each split."""
    splits = {split: counts for split, counts in card["splits"].items() if counts}
    rows = [[pair, *(_count(counts.get(pair)) for counts in splits.values())] for pair in card["pairs"]]
    total = ["all", *(_count(sum(counts.values())) for counts in splits.values())]
    if len(rows) > MANY:
        return Table(("Sentence pairs", *splits), [total, *rows], name="sentence pairs", marked=frozenset({0}))
    return Table(("Sentence pairs", *splits), [*rows, total], name="sentence pairs", marked=frozenset({len(rows)}))


def sources_table(card: Mapping[str, Any]) -> Table:
    """Where the text comes from, and under which licence."""
    keys = ("name", "version", "licence", "via")
    rows = [[str(source.get(key) or NONE) for key in keys] for source in card.get("sources", [])]
    return Table(("Source", "Version", "Licence", "Fetched by"), rows, "Sources", name="sources", words=True)


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
