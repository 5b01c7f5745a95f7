"""The metrics that every evaluation computes. A new one is one file beside these and one line below."""

from smoe_mt.evaluation.metrics import bleu, chrf, copied, length
from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score

METRICS: tuple[Metric, ...] = (
    bleu.METRIC,
    chrf.METRIC,
    length.METRIC,
    copied.METRIC,
)

__all__ = ["METRICS", "Corpus", "Metric", "Score"]
