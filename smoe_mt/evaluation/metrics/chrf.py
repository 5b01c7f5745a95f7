"""chrF++ by sacreBLEU: character n-grams and words up to pairs."""

from __future__ import annotations

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score


def compute(corpus: Corpus) -> Score:
    """Corpus chrF++, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(word_order=2)
    value = metric.corpus_score(list(corpus.hypotheses), [list(corpus.references)]).score
    return Score(value, str(metric.get_signature()))


METRIC = Metric("chrf", "chrF++", "sacreBLEU's corpus chrF++ (word order 2), 0 to 100", 1, compute)
