"""spBLEU: BLEU over the pieces of the flores200 SentencePiece model, as the paper scores OPUS-100 (paper: section 3).

sacreBLEU would fetch that model by itself. Here it must lie on the disk already: scoring starts no download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics.by_sacrebleu import sacrebleu_metric

TOKENIZER = "flores200"


def model_path() -> Path:
    """Where sacreBLEU keeps the SentencePiece model of the tokenizer."""
    from sacrebleu.tokenizers import tokenizer_spm

    return Path(tokenizer_spm.SACREBLEU_DIR, "models", Path(tokenizer_spm.SPM_MODELS[TOKENIZER]["url"]).name)


def check() -> None:
    """UserError where the tokenizer's model is not there, or cannot be read."""
    path = model_path()
    if not path.is_file():
        raise UserError(
            f"spbleu needs the SentencePiece model of sacreBLEU's tokenizer {TOKENIZER}, and {path} is not there; "
            f"`sacrebleu REFERENCE -i HYPOTHESES -tok {TOKENIZER}` fetches it, or copy it there from another machine "
            "(SACREBLEU in the environment names another folder for what sacreBLEU keeps)"
        )
    try:
        scorer()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: not a SentencePiece model; remove it and fetch it again") from error


def scorer() -> Any:
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
