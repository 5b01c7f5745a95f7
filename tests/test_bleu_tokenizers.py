"""BLEU's tokenizer goes with the target language."""

from __future__ import annotations

import pytest

from smoe_mt.bleu_tokenizers import AUTO, check_tokenizer, is_installed, tokenizer_for
from smoe_mt.errors import UserError


@pytest.mark.parametrize(
    "language, tokenizer",
    [
        ("en", "13a"),
        ("zh", "zh"),
        ("zho_Hans", "zh"),
        ("zh-TW", "zh"),
        ("zho_Latn", "13a"),
        ("th", "char"),
        ("khm_Khmr", "char"),
        ("vi", "13a"),
    ],
)
def test_tokenizer_follows_language_script_and_region(language: str, tokenizer: str) -> None:
    assert tokenizer_for(language) == tokenizer


@pytest.mark.parametrize("language, own", [("ja", "ja-mecab"), ("kor_Hang", "ko-mecab")])
def test_characters_stand_in_for_a_library_that_is_missing(language: str, own: str) -> None:
    assert tokenizer_for(language) == (own if is_installed(own) else "char")


def test_unknown_tokenizer_is_refused_with_the_known_ones() -> None:
    check_tokenizer(AUTO)
    with pytest.raises(UserError, match="unknown tokenizer 'moses': there are auto, none, zh"):
        check_tokenizer("moses")
