"""Names of languages and pairs."""

from __future__ import annotations

import pytest

from smoe_mt.language_codes import direction_name, is_english, parse_pair


@pytest.mark.parametrize(
    "name, pair",
    [
        ("nso-en", ("nso", "en")),
        ("zho_Hans-eng_Latn", ("zho_Hans", "eng_Latn")),
        ("pt-BR-en", ("pt_BR", "en")),
        ("en-pt-BR", ("en", "pt_BR")),
        ("zh-Hans-CN-es-419", ("zh_Hans_CN", "es_419")),
        ("pt-br-en", None),
        ("nso", None),
    ],
)
def test_pair_is_split_between_its_languages(name: str, pair: tuple[str, str] | None) -> None:
    assert parse_pair(name) == pair


@pytest.mark.parametrize(
    "code, english", [("en", True), ("eng_Latn", True), ("en_GB", True), ("enm", False), ("sv", False)]
)
def test_english_is_known_by_all_its_codes(code: str, english: bool) -> None:
    assert is_english(code) == english


@pytest.mark.parametrize("name, stored", [("pt-BR-en", "pt_BR-en"), ("en-nso", "en-nso"), ("a-b-c", "a-b-c"), ("", "")])
def test_direction_has_the_name_that_folders_use(name: str, stored: str) -> None:
    assert direction_name(name) == stored
