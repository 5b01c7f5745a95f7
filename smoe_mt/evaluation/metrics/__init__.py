"""The metrics that an evaluation can compute. To add one: a file in this folder and a line below."""

from smoe_mt.evaluation.metrics import bleu, chrf, comet, copied, length, off_target, piece_bleu, spbleu
from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score

METRICS: tuple[Metric, ...] = (
    bleu.METRIC,
    chrf.METRIC,
    spbleu.METRIC,
    piece_bleu.METRIC,
    length.METRIC,
    copied.METRIC,
    off_target.METRIC,
    comet.METRIC,
)
DEFAULT_METRICS = tuple(metric for metric in METRICS if not metric.optional)

__all__ = ["DEFAULT_METRICS", "METRICS", "Corpus", "Metric", "Score"]
