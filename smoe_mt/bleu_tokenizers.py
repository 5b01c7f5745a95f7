"""Which of sacreBLEU's tokenizers BLEU takes for a target language.

sacreBLEU has tokenizers of its own for Chinese, Japanese and Korean and advises them there. Other languages that put no
spaces between words are counted by characters: their sentences would be single words to the default tokenizer, 13a.
"""

from __future__ import annotations

import re
from pathlib import Path

from smoe_mt.errors import UserError

AUTO = "auto"
DEFAULT = "13a"
BY_CHARACTERS = "char"
_CHINESE = frozenset({"zh", "zho", "chi", "cmn", "yue", "wuu", "hak", "gan", "lzh"})
_JAPANESE = frozenset({"ja", "jpn"})
_OWN = {
    **dict.fromkeys(_CHINESE, "zh"),
    **dict.fromkeys(_JAPANESE, "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
}
_WITHOUT_SPACES = frozenset(
    {
        "th",
        "tha",
        "lo",
        "lao",
        "km",
        "khm",
        "my",
        "mya",
        "bur",
        "bo",
        "bod",
        "tib",
        "dz",
        "dzo",
        "shn",
        "nod",
        "ii",
        "iii",
    }
)
_LATIN = re.compile(r"[-_]latn\b", re.IGNORECASE)


def tokenizer_for(language: str) -> str:
    """sacreBLEU's name of the tokenizer for a language code with or without script and region: "zh" for zho_Hans, zh-CN.

    Characters ("char") stand in for a tokenizer whose library is not installed (sacrebleu[ja], sacrebleu[ko]).
    """
    code = _code(language)
    if code in _OWN:
        return _OWN[code] if is_installed(_OWN[code]) else BY_CHARACTERS
    return BY_CHARACTERS if code in _WITHOUT_SPACES else DEFAULT


def has_space_between_sentences(language: str) -> bool:
    """Not Chinese and Japanese; Thai and others without spaces between words have them between sentences."""
    code = _code(language)
    return code not in _CHINESE and code not in _JAPANESE


def _code(language: str) -> str:
    """The code without script and region; empty for a language in Latin script."""
    return "" if _LATIN.search(language) else re.split(r"[-_]", language.lower())[0]


def is_installed(tokenizer: str) -> bool:
    """Whether sacreBLEU can make the tokenizer here."""
    from sacrebleu.metrics.bleu import BLEU

    try:
        BLEU(tokenize=tokenizer)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def model_path(tokenizer: str) -> Path | None:
    """Where sacreBLEU keeps the SentencePiece model of a tokenizer such as flores200; None for one that needs none."""
    from sacrebleu.tokenizers import tokenizer_spm

    models: dict[str, dict[str, str]] = tokenizer_spm.SPM_MODELS
    return (
        Path(tokenizer_spm.SACREBLEU_DIR, "models", Path(models[tokenizer]["url"]).name)
        if tokenizer in models
        else None
    )


def check_tokenizer(name: str) -> None:
    """UserError for a name that is neither sacreBLEU's nor `auto`, and for one that cannot be used here."""
    from sacrebleu.metrics.bleu import BLEU

    if name == AUTO:
        return
    if name not in BLEU.TOKENIZERS:
        raise UserError(f"unknown tokenizer {name!r}: there are {AUTO}, {', '.join(BLEU.TOKENIZERS)}")
    path = model_path(name)
    if path is not None and not path.is_file():  # sacreBLEU would start a download
        raise UserError(
            f"the tokenizer {name} needs its SentencePiece model, and {path} is not there; "
            f"`sacrebleu REFERENCE -i HYPOTHESES -tok {name}` fetches it, or copy it there from another machine "
            "(SACREBLEU in the environment names another folder for what sacreBLEU keeps)"
        )
    if path is not None and not is_installed(name):
        raise UserError(f"{path}: not a SentencePiece model; remove it and fetch it again")
    if not is_installed(name):
        raise UserError(f"the tokenizer {name} cannot be used here: pip install 'sacrebleu[{name[:2]}]'")
