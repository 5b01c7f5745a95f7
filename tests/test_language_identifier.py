"""The language of a text."""

from __future__ import annotations

import sys

import pytest

from smoe_mt import language_identifier
from smoe_mt.errors import UserError
from smoe_mt.language_identifier import identify, labels_of, load_identifier

FINNISH = "Tämä on suomenkielinen lause, jossa on monta sanaa."


def test_the_likeliest_comes_first_and_others_are_left_out() -> None:
    found = identify(FINNISH, ("sv", "fi", "aa_Toy"))
    assert [language for language, _ in found] == ["fi", "sv"]
    assert found[0][1] > 0.9 > found[1][1]


def test_languages_keep_their_own_codes() -> None:
    assert identify(FINNISH, ("fin_Latn", "swe_Latn"))[0][0] == "fin_Latn"


def test_no_language_that_it_knows() -> None:
    assert identify(FINNISH, ("xx",)) == []


@pytest.mark.parametrize(("language", "label"), [("nob", "no"), ("msa", "ms"), ("deu_Latn", "de"), ("en", "en")])
def test_labels_of_our_codes(language: str, label: str) -> None:
    assert label in labels_of(language, load_identifier("a test", probabilities=False))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_identifier._identifier.cache_clear()
    with pytest.raises(UserError, match=r"detecting a language needs py3langid: pip install 'smoe_mt\[langid\]'"):
        language_identifier.check()
