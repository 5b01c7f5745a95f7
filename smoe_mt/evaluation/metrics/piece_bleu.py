"""BLEU over the model's own SentencePiece pieces, as the released code scores (paper: section 6).

For comparison with published numbers only: the value depends on the vocabulary, so models of different data folders cannot be
compared by it. Text is split again after translation; the released code takes the pieces as the model wrote them, and counts
the target-language token that it forces in front of them, which models here do not write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus
from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric


def scorer(corpus: Corpus) -> Any:
    """Corpus BLEU, 0 to 100, of text whose tokens are separated by spaces."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="none", force=True)  # force: no warning that the text looks tokenized


def split(corpus: Corpus, lines: Sequence[str]) -> list[str]:
    """The lines as pieces separated by spaces."""
    assert corpus.pieces is not None, "the corpus comes without a SentencePiece model"
    return [corpus.pieces.encode(line) for line in lines]


def fingerprint(pieces: Any) -> str:
    """A short checksum of the SentencePiece model: values of the metric are comparable where it is the same."""
    return hashlib.sha256(pieces.spm.serialized_model_proto()).hexdigest()[:8]


METRIC = sacrebleu_metric(
    "piece_bleu",
    "pieceBLEU",
    "BLEU over the pieces of the model's own SentencePiece model, as the paper's released code scores, 0 to 100",
    scorer,
    optional=True,
    prepare=split,
    suffix=lambda corpus: f"|pieces:{fingerprint(corpus.pieces)}",
)
