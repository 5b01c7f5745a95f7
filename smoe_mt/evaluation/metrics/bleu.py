"""BLEU by sacreBLEU, with its default tokenizer."""

from __future__ import annotations

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score


def compute(corpus: Corpus) -> Score:
    """Corpus BLEU, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    value = metric.corpus_score(list(corpus.hypotheses), [list(corpus.references)]).score
    return Score(value, str(metric.get_signature()))


METRIC = Metric("bleu", "BLEU", "sacreBLEU's corpus BLEU, 0 to 100", 1, compute)
