"""chrF++ by sacreBLEU: character n-grams and words up to pairs."""

from __future__ import annotations

from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus
from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric


def scorer(corpus: Corpus) -> Any:
    """Corpus chrF++, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2)


METRIC = sacrebleu_metric("chrf", "chrF++", "sacreBLEU's corpus chrF++ (word order 2), 0 to 100", scorer)
