"""Numbers of one evaluation: per direction, and their unweighted means over groups of directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smoe_mt.evaluation.metrics import DEFAULT_METRICS, Corpus, Metric
from smoe_mt.language_codes import is_english
from smoe_mt.paper.resources import belongs, classes_of

GROUPS: dict[str, Callable[[str], bool]] = {
    "mean": lambda direction: True,
    "mean_to_en": lambda direction: is_english(direction.split("-")[1]),
    "mean_from_en": lambda direction: is_english(direction.split("-")[0]),
}

Mean = dict[str, float | None]


@dataclass(frozen=True)
class DirectionScores:
    """`values` by metric name, None where a metric has none for the direction; `signatures` of the metrics that have one."""

    values: Mapping[str, float | None]
    signatures: Mapping[str, str]
    sentences: int

    def joined(self, other: DirectionScores) -> DirectionScores:
        """With other metrics of the same sentences."""
        return replace(self, values={**self.values, **other.values}, signatures={**self.signatures, **other.signatures})

    def as_json(self) -> dict[str, Any]:
        """The entry of one direction in scores.json."""
        return {**self.values, "signatures": dict(self.signatures), "sentences": self.sentences}


def score(corpus: Corpus, metrics: Sequence[Metric] = DEFAULT_METRICS) -> DirectionScores:
    """These metrics on one direction."""
    found = {metric.name: metric.compute(corpus) for metric in metrics}
    return DirectionScores(
        values={name: one.value if one else None for name, one in found.items()},
        signatures={name: one.signature for name, one in found.items() if one and one.signature},
        sentences=len(corpus.references),
    )


def copy_baseline(corpus: Corpus) -> Corpus:
    """The same direction, translated by repeating the source: what a useful model has to beat."""
    return corpus.translated(corpus.sources)


BASELINES: dict[str, Callable[[Corpus], Corpus]] = {"copy": copy_baseline}


def means(scores: Mapping[str, DirectionScores]) -> dict[str, Mean | None]:
    """Per group of directions the mean of each metric over those that it has a value for; None for a group without any."""
    return {
        group: _mean(one for direction, one in scores.items() if is_in(direction)) for group, is_in in GROUPS.items()
    }


def class_means(scores: Mapping[str, DirectionScores], benchmark: str | None) -> dict[str, dict[str, Mean | None]]:
    """`means` over the directions of each resource class of the benchmark; empty where it has none."""
    return {
        name: means({direction: one for direction, one in scores.items() if belongs(direction, languages)})
        for name, languages in classes_of(benchmark).items()
    }


def _mean(scores: Iterable[DirectionScores]) -> Mean | None:
    values: dict[str, list[float]] = {}
    for one in scores:
        for name, value in one.values.items():
            values.setdefault(name, []).extend([] if value is None else [value])
    return {name: sum(known) / len(known) if known else None for name, known in values.items()} or None


def as_json(scores: Mapping[str, DirectionScores], benchmark: str | None = None) -> dict[str, Any]:
    """`{"directions": {...}, "mean": {...}, ..., "classes": {"high": {"mean": {...}, ...}, ...}}`."""
    directions = {direction: one.as_json() for direction, one in scores.items()}
    return {"directions": directions, **means(scores), "classes": class_means(scores, benchmark)}
