"""BLEU by sacreBLEU, with the tokenizer of the target language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus, Pooling, as_it_is
from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric


def scorer(corpus: Corpus) -> Any:
    """Corpus BLEU, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=corpus.tokenizer)


def tokenized(corpus: Corpus, lines: Sequence[str]) -> list[str]:
    """The lines as the tokens that BLEU counts, separated by spaces."""
    tokenizer = scorer(corpus).tokenizer
    return [tokenizer(line) for line in lines]


def pool(corpora: Sequence[Corpus]) -> Pooling:
    """All text with its own language's tokenizer, where those differ."""
    from sacrebleu.metrics.bleu import BLEU

    tokenizers = sorted({corpus.tokenizer for corpus in corpora})
    if len(tokenizers) == 1:
        return Pooling(scorer(corpora[0]), as_it_is)
    return Pooling(BLEU(tokenize="none", force=True), tokenized, f"|tokenized:{'+'.join(tokenizers)}")


METRIC = sacrebleu_metric(
    "bleu", "BLEU", "sacreBLEU's corpus BLEU with the target language's tokenizer, 0 to 100", scorer, pool=pool
)
