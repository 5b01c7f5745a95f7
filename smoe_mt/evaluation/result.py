"""What an evaluation has found: text, scores, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

from smoe_mt.checksums import sha256_value
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, Corpus, Metric
from smoe_mt.evaluation.scores import DirectionScores, as_json

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """The result: text and scores of every direction, and those of each baseline."""

    name: str
    corpora: tuple[Corpus, ...]
    scores: dict[str, DirectionScores]
    baselines: dict[str, dict[str, DirectionScores]]
    details: dict[str, Any]
    metrics: tuple[Metric, ...] = DEFAULT_METRICS

    @property
    def benchmark(self) -> str | None:
        """The benchmark whose text was translated, if it is one's."""
        return self.details.get("benchmark")

    def as_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "format": FORMAT,
            **self.details,
            "checksums": {
                "text": sha256_value([[each.direction, each.sources, each.references] for each in self.corpora]),
                "hypotheses": sha256_value([[each.direction, each.hypotheses] for each in self.corpora]),
            },
            "metrics": {metric.name: metric.meaning for metric in self.metrics},
            **as_json(self.scores, self.benchmark),
            "baselines": {name: as_json(scores, self.benchmark) for name, scores in self.baselines.items()},
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Versions of what scores depend on."""
    found = {}
    for package, distribution in {
        "smoe_mt": "smoe_mt",
        "sacrebleu": "sacrebleu",
        "torch": "torch",
        "fairseq": "fairseq-fixed",
    }.items():
        try:
            found[package] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
