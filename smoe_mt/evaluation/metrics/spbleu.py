"""spBLEU: BLEU over the pieces of the flores200 SentencePiece model, as the paper scores OPUS-100 (paper: section 3).

sacreBLEU would fetch that model by itself. Here it must lie on the disk already: scoring starts no download.
"""

from __future__ import annotations

from typing import Any

from smoe_mt.bleu_tokenizers import check_tokenizer
from smoe_mt.evaluation.metrics.base import Corpus
from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric

TOKENIZER = "flores200"


def check() -> None:
    """UserError where the tokenizer's model is not there, or cannot be read."""
    check_tokenizer(TOKENIZER)


def scorer(corpus: Corpus) -> Any:
    """Corpus BLEU, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=TOKENIZER)


METRIC = sacrebleu_metric(
    "spbleu",
    "spBLEU",
    f"sacreBLEU's corpus BLEU with the tokenizer {TOKENIZER}, 0 to 100",
    scorer,
    check=check,
    optional=True,
)
