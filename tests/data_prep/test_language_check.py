"""Language identification by py3langid."""

from __future__ import annotations

import sys

import pytest

from data_prep import language_check
from data_prep.clean import CleanOptions, fault
from data_prep.language_check import Identifier, check_library
from smoe_mt.errors import UserError
from smoe_mt.languages import two_letter_codes

ENGLISH = "Please open the new window and read the message that is in it."
CATALAN = "Obriu la finestra nova i llegiu el missatge que hi ha a dins."
GERMAN = "Bitte das neue Fenster öffnen und die Nachricht lesen, die darin steht."


@pytest.fixture
def identifier() -> Identifier:
    pytest.importorskip("py3langid", reason="the extra 'langid' is not installed")
    return Identifier.of(("cat", "en"), two_letter_codes(["cat", "en"]))


@pytest.mark.parametrize(
    "first, second, objects",
    [
        (CATALAN, ENGLISH, False),
        (GERMAN, ENGLISH, True),
        (CATALAN, GERMAN, True),
        ("Fenster öffnen", ENGLISH, False),  # too short to say
    ],
)
def test_a_third_language_is_found(identifier: Identifier, first: str, second: str, objects: bool) -> None:
    assert identifier.objects(first, second) == objects
    reason = fault(first, second, CleanOptions(), identifier=identifier)
    assert reason == ("another language" if objects else None)


def test_languages_that_the_library_does_not_know_pass(identifier: Identifier) -> None:
    assert not Identifier.of(("xaa", "en"), {}).objects(GERMAN, ENGLISH)
    assert Identifier.of(("xaa", "en"), {}).objects(GERMAN, GERMAN)


def test_relatives_pass(identifier: Identifier) -> None:
    indonesian = "Silakan buka jendela yang baru dan baca pesan yang ada di dalamnya."
    assert not Identifier.of(("msa", "en"), two_letter_codes(["msa"])).objects(indonesian, ENGLISH)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_check._library.cache_clear()
    with pytest.raises(UserError, match="pip install 'smoe_mt\\[langid\\]'"):
        check_library()
