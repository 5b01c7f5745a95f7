"""Evaluations side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smoe_mt.evaluation.metrics import Metric
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.scores import DirectionScores, class_means, means
from smoe_mt.evaluation.seeds import by_setting, mean_and_spread
from smoe_mt.paper.resources import classes_of
from smoe_mt.text_table import aligned

BASELINE_METRIC = "chrf"
GROUP_TITLES = {"mean": "mean", "mean_to_en": "mean xx-en", "mean_from_en": "mean en-xx"}


Scores = Mapping[str, DirectionScores]


def scores_table(evaluations: Sequence[Evaluation], baseline: str = "copy") -> str:
    """A row for each direction, mean and resource class; the baseline's chrF++ (or the first metric, where that was not
    computed), then every metric of every run.

    Runs that differ only in their seed share their columns: mean and standard deviation.
    """
    directions = list(dict.fromkeys(direction for each in evaluations for direction in each.scores))
    benchmark = next((each.benchmark for each in evaluations if each.benchmark), None)
    compared: dict[str, DirectionScores] = {}
    for evaluation in reversed(evaluations):
        compared.update(evaluation.baselines[baseline])
    metrics = evaluations[0].metrics
    metric = next((metric for metric in metrics if metric.name == BASELINE_METRIC), metrics[0])
    rows = Rows(tuple(directions), benchmark)
    columns = [rows.column(f"{baseline} {metric.title}", [compared], metric)]
    groups = by_setting(evaluations)
    for group in groups:
        columns += [rows.column(metric.title, [one.scores for one in group.members], metric) for metric in metrics]
    names = ["", *rows.names]
    first = max(map(len, names))
    lines = aligned(zip(names, *columns))
    rule = "-" * len(lines[0])
    body = [_run_names([group.name for group in groups], columns, first, len(metrics)), lines[0], rule]
    table = [*body, *lines[1 : len(directions) + 1], rule, *lines[len(directions) + 1 :]]
    if len(groups) < len(evaluations):
        table.append("± standard deviation over seeds")
    return "\n".join(table)


@dataclass(frozen=True)
class Rows:
    """What the rows of the table stand for: directions, then means over all of them and over each resource class."""

    directions: tuple[str, ...]
    benchmark: str | None

    @property
    def names(self) -> list[str]:
        """The first column."""
        groups = [*GROUP_TITLES.values()]
        classes = [title.replace("mean", name) for name in classes_of(self.benchmark) for title in groups]
        return [*self.directions, *groups, *classes]

    def column(self, title: str, runs: Sequence[Scores], metric: Metric) -> list[str]:
        """A metric of a run, or of several that differ in their seed; `-` where one of them has no value."""
        cells = [title]
        for values in zip(*(self._values(scores, metric) for scores in runs)):
            known = [value for value in values if value is not None]
            cells.append(mean_and_spread(known, metric.decimals) if len(known) == len(runs) else "-")
        width = max(map(len, cells))
        return [cell.rjust(width) for cell in cells]

    def _values(self, scores: Scores, metric: Metric) -> list[float | None]:
        values = [
            scores[direction].values[metric.name] if direction in scores else None for direction in self.directions
        ]
        for found in (means(scores), *class_means(scores, self.benchmark).values()):
            assert list(found) == list(GROUP_TITLES)
            values += [mean[metric.name] if mean else None for mean in found.values()]
        return values


def _run_names(names: Sequence[str], columns: Sequence[Sequence[str]], first: int, each: int) -> str:
    """The line above the titles: each run's name over its columns, `each` in number."""
    widths = [len(column[0]) for column in columns]
    line = " " * (first + 2 + widths[0] + 2)
    for index, name in enumerate(names):
        own = widths[1 + index * each : 1 + (index + 1) * each]
        width = sum(own) + 2 * (len(own) - 1)
        shown = name if len(name) <= width else "..." + name[3 - width :]
        line += shown.center(width, ".") + "  "
    return line.rstrip()


def samples(evaluation: Evaluation, count: int) -> str:
    """`count` translations, or all, with source and reference, in turn from all directions, evenly over each."""
    chosen = []
    per_direction = -(-count // len(evaluation.corpora))
    for turn in range(min(per_direction, max(len(corpus.sources) for corpus in evaluation.corpora))):
        for corpus in evaluation.corpora:
            mine = min(per_direction, len(corpus.sources))
            if turn < mine:
                chosen.append((corpus, turn * len(corpus.sources) // mine))
    labels = ("source", evaluation.name, "reference")
    width = max(10, *map(len, labels))
    shown = []
    for corpus, place in chosen[:count]:
        texts = (corpus.sources[place], corpus.hypotheses[place], corpus.references[place])
        heads = (corpus.direction, *[" " * len(corpus.direction)] * 2)
        rows = zip(heads, labels, texts)
        shown.append("\n".join(f"{head}  {label:<{width}}  {text}" for head, label, text in rows))
    return "\n\n".join(shown)
