"""Names of languages."""

from __future__ import annotations

import pytest

from smoe_mt.languages import LANGUAGES
from smoe_mt.serving.language_names import name_of


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("sv", "Swedish"),
        ("eng_Latn", "English (Latn)"),
        ("pt_BR", "Portuguese (BR)"),
        ("nso", "Northern Sotho"),
        ("msa", "Malay"),
        ("xx", "xx"),
    ],
)
def test_name(code: str, name: str) -> None:
    assert name_of(code) == name


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_every_language_of_the_table_has_one(code: str) -> None:
    assert name_of(code) != code
