"""Resource classes as data."""

from __future__ import annotations

from collections import Counter

from smoe_mt.paper.benchmarks import OPUS100_UNTESTED
from smoe_mt.paper.resources import M15, OPUS100, belongs, classes_of


def test_m15_has_five_languages_in_each_class() -> None:
    assert {name: len(languages) for name, languages in M15.items()} == {"high": 5, "low": 5, "very low": 5}


def test_opus100_has_its_99_languages_once_each() -> None:
    """94 of them have a test set: 45 high, 28 medium, 21 low."""
    languages = Counter(language for languages in OPUS100.values() for language in languages)
    assert len(languages) == 99 and set(languages.values()) == {1}
    assert [len(set(each) - set(OPUS100_UNTESTED)) for each in OPUS100.values()] == [45, 28, 21]


def test_a_direction_is_in_the_class_of_its_other_language() -> None:
    high = classes_of("m15")["high"]
    assert belongs("slv-en", high) and belongs("en-slv", high)
    assert not belongs("en-lim", high) and not belongs("slv-lim", high)
