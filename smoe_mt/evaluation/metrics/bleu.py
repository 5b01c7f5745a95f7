"""BLEU by sacreBLEU, with its default tokenizer."""

from __future__ import annotations

from typing import Any

from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric


def scorer() -> Any:
    """Corpus BLEU, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


METRIC = sacrebleu_metric("bleu", "BLEU", "sacreBLEU's corpus BLEU, 0 to 100", scorer)
