"""How often a model only repeats its source."""

from __future__ import annotations

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score


def compute(corpus: Corpus) -> Score:
    """Fraction of hypotheses identical to their source, 0 to 1."""
    same = sum(source.strip() == output.strip() for source, output in zip(corpus.sources, corpus.hypotheses))
    return Score(same / max(len(corpus.hypotheses), 1))


METRIC = Metric("copied", "copied", "fraction of outputs identical to their source", 2, compute)
