"""Evaluations side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smoe_mt.evaluation.evaluate import Evaluation
from smoe_mt.evaluation.metrics import METRICS, Metric
from smoe_mt.evaluation.scores import DirectionScores, means

BASELINE_METRIC = "chrf"
GROUP_TITLES = {"mean": "mean", "mean_to_en": "mean xx-en", "mean_from_en": "mean en-xx"}


def scores_table(evaluations: Sequence[Evaluation], baseline: str = "copy") -> str:
    """A row for each direction and mean; the baseline's chrF++, then every metric of every run."""
    directions = list(dict.fromkeys(direction for each in evaluations for direction in each.scores))
    compared: dict[str, DirectionScores] = {}
    for evaluation in reversed(evaluations):
        compared.update(evaluation.baselines[baseline])
    metric = next(metric for metric in METRICS if metric.name == BASELINE_METRIC)
    columns = [_column(f"{baseline} {metric.title}", compared, directions, metric)]
    for evaluation in evaluations:
        columns += [_column(metric.title, evaluation.scores, directions, metric) for metric in METRICS]
    names = ["", *directions, *GROUP_TITLES.values()]
    first = max(map(len, names))
    rows = ["  ".join(cells) for cells in zip((name.ljust(first) for name in names), *columns)]
    rule = "-" * len(rows[0])
    body = [_run_names(evaluations, columns, first), rows[0], rule]
    return "\n".join([*body, *rows[1 : len(directions) + 1], rule, *rows[len(directions) + 1 :]])


def _column(title: str, scores: Mapping[str, DirectionScores], directions: Sequence[str], metric: Metric) -> list[str]:
    values = [scores[direction].values[metric.name] if direction in scores else None for direction in directions]
    for group, mean in means(scores).items():
        assert group in GROUP_TITLES
        values.append(mean[metric.name] if mean else None)
    cells = [title, *("-" if value is None else f"{value:.{metric.decimals}f}" for value in values)]
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _run_names(evaluations: Sequence[Evaluation], columns: Sequence[Sequence[str]], first: int) -> str:
    """The line above the titles: each run's name over its columns."""
    widths = [len(column[0]) for column in columns]
    line = " " * (first + 2 + widths[0] + 2)
    for index, evaluation in enumerate(evaluations):
        own = widths[1 + index * len(METRICS) : 1 + (index + 1) * len(METRICS)]
        width = sum(own) + 2 * (len(own) - 1)
        name = evaluation.name if len(evaluation.name) <= width else "..." + evaluation.name[3 - width :]
        line += name.center(width, ".") + "  "
    return line.rstrip()


def samples(evaluation: Evaluation, count: int) -> str:
    """`count` translations beside source and reference, taken in turn from all directions, evenly over each."""
    chosen = []
    per_direction = -(-count // len(evaluation.corpora))
    for turn in range(per_direction):
        for corpus in evaluation.corpora:
            place = turn * len(corpus.sources) // per_direction
            chosen.append((corpus, place))
    return "\n\n".join(
        f"{corpus.direction}  source      {corpus.sources[place]}\n"
        f"{' ' * len(corpus.direction)}  {evaluation.name[-11:]:<11} {corpus.hypotheses[place]}\n"
        f"{' ' * len(corpus.direction)}  reference   {corpus.references[place]}"
        for corpus, place in chosen[:count]
    )
