"""The filters, one by one, and their counts."""

from __future__ import annotations

import pytest

from data_prep.clean import PLACEHOLDERS, STEPS, CleanOptions, clean, common_subsequence, fault, folded
from data_prep.corpora.l10n import PLACEHOLDERS as L10N_PLACEHOLDERS
from data_prep.rows import Row
from tests.data_prep.toy import toy_lines

OPTIONS = CleanOptions()


@pytest.mark.parametrize(
    "first, second, reason",
    [
        ("Lumela lefase", "Hello world", None),
        ("", "Hello", "empty"),
        ("123 - 4", "Hello", "no letters"),
        ("bad \ufffd text", "Hello", "broken characters"),
        ("Hello, World", "hello world!", "copies"),
        ("Hello big wide worlds", "hello big wide world hello", None),
        ("open the new window now", "open the new windows now", "near copies"),
        ("e d c b a", "a b c d e", None),
        ("x" * 1001, "Hello", "too long"),
        ("Faele %s", "File %d", "placeholders differ"),
        ("%2$s le %1$s", "%1$s and %2$s", None),
        ("{name} o tla", "{name} comes", None),
        ("20 % de réduction", "20% discount", None),
        ("Ça coûte 5 $", "It costs $5", None),
    ],
)
def test_fault(first: str, second: str, reason: str | None) -> None:
    assert fault(first, second, OPTIONS) == reason


def test_copies_can_be_kept() -> None:
    assert fault("same words here", "same words here", CleanOptions(keep_copies=True)) is None


@pytest.mark.parametrize("text, count", [("$1 of $2", 2), ("%S and %1$S", 2), ("{ $name }", 1), ("100 % sure", 0)])
def test_l10n_knows_more_placeholders(text: str, count: int) -> None:
    assert len(L10N_PLACEHOLDERS.findall(text)) == count


@pytest.mark.parametrize(
    "text, key",
    [
        ("Page 12, of  30!", "page of"),
        ("ÉCOLE", "école"),
        ("ﬁle", "file"),
        ("123", "123"),
        ("क्षि", "क्षि"),
    ],
)
def test_folded(text: str, key: str) -> None:
    assert folded(text) == key


def test_common_subsequence() -> None:
    assert common_subsequence("abcde", "axcye") == 3


def cleaned(rows: list[tuple[str, str]]) -> tuple[list[Row], dict[str, int]]:
    return clean([Row("t", *row) for row in rows], OPTIONS, PLACEHOLDERS, 1)


def test_counts_add_up_and_duplicates_go() -> None:
    rows, counts = cleaned([*toy_lines(50), *toy_lines(50), ("", "x"), ("same text", "same text")])
    assert list(counts) == list(STEPS)
    assert counts["read"] == 102 and counts["kept"] == len(rows)
    assert sum(counts.values()) - counts["read"] == counts["read"]
    assert counts["duplicates"] >= 50 and counts["empty"] == 1 and counts["copies"] == 1


def test_length_ratio_is_relative_to_the_corpus() -> None:
    usual = [("word " * 20 + str(number) + "a", "x" * 10 + chr(97 + number % 26)) for number in range(60)]
    odd = ("short", "y" * 300)
    rows, counts = cleaned([*usual, odd])
    assert counts["length ratio"] == 1
    assert Row("t", *odd) not in rows


def test_english_left_in_the_foreign_column_goes() -> None:
    right = toy_lines(700, fewest=5)
    wrong = [
        ("gold wolf tree boat milk", "star king sea gold horse"),
        ("horse bread sea love", "wolf girl tree street"),
    ]
    rows, counts = cleaned([*right, *wrong])
    assert counts["other side's language"] == len(wrong)
    assert not {row.first for row in rows} & {one for one, _ in wrong}


def test_languages_with_the_same_words_are_left_alone() -> None:
    rows = [(" ".join(reversed(other.split())), other) for _, other in toy_lines(700, fewest=5)]
    _, counts = cleaned(rows)
    assert counts["other side's language"] == 0
    assert counts["kept"] > 500


def test_order_and_result_do_not_depend_on_workers() -> None:
    rows = [Row("t", *line) for line in toy_lines(9000)]
    assert clean(rows, OPTIONS, PLACEHOLDERS, 1) == clean(rows, OPTIONS, PLACEHOLDERS, 2)
