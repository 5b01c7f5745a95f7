"""How long the outputs are. Characters, since not every language puts spaces between words."""

from __future__ import annotations

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score


def compute(corpus: Corpus) -> Score:
    """Characters of all hypotheses over characters of all references, spaces counted."""
    produced = sum(map(len, corpus.hypotheses))
    wanted = sum(map(len, corpus.references))
    return Score(produced / max(wanted, 1))


METRIC = Metric("length_ratio", "length", "characters of the outputs / characters of the references", 2, compute)
