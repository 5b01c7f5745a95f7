"""The cleaning of a whole pair: its filters and their counts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from data_prep import columns
from data_prep.clean import PLACEHOLDERS, STEPS, CleanOptions
from data_prep.cleaning import Filters, clean_pair
from data_prep.rows import Row, read_rows
from data_prep.split import SplitOptions
from tests.data_prep.toy import toy_lines

Lines = list[tuple[str, str]]
Cleaned = Callable[..., tuple[list[Row], dict[str, int]]]


@pytest.fixture
def cleaned(tmp_path: Path) -> Cleaned:
    """Clean some lines; the rows that are left and the counts."""
    numbers = count()

    def run(lines: Lines, workers: int = 1, **options: Any) -> tuple[list[Row], dict[str, int]]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        filters = Filters("xaa-en", CleanOptions(**options), SplitOptions(), PLACEHOLDERS)
        counts = clean_pair([Row("t", *line) for line in lines], filters, folder, workers)
        assert sorted(path.name for path in folder.iterdir()) == ["facts", "rows.tsv"]
        return list(read_rows(folder / "rows.tsv")), counts

    return run


def test_counts_add_up_and_duplicates_go(cleaned: Cleaned) -> None:
    rows, counts = cleaned([*toy_lines(50), *toy_lines(50), ("", "x"), ("same text", "same text")])
    assert list(counts) == list(STEPS)
    assert counts["read"] == 102 and counts["kept"] == len(rows)
    assert sum(counts.values()) - counts["read"] == counts["read"]
    assert counts["duplicates"] >= 50 and counts["empty"] == 1 and counts["copies"] == 1


def test_length_ratio_is_relative_to_the_corpus(cleaned: Cleaned) -> None:
    usual = [("word " * 20 + str(number) + "a", "x" * 10 + chr(97 + number % 26)) for number in range(60)]
    odd = ("short", "y" * 300)
    rows, counts = cleaned([*usual, odd])
    assert counts["length ratio"] == 1
    assert Row("t", *odd) not in rows


def test_english_left_in_the_foreign_column_goes(cleaned: Cleaned) -> None:
    right = toy_lines(700, fewest=5)
    wrong = [
        ("gold wolf tree boat milk", "star king sea gold horse"),
        ("horse bread sea love", "wolf girl tree street"),
    ]
    rows, counts = cleaned([*right, *wrong])
    assert counts["other side's language"] == len(wrong)
    assert not {row.first for row in rows} & {one for one, _ in wrong}


def test_languages_with_the_same_words_are_left_alone(cleaned: Cleaned) -> None:
    rows = [(" ".join(reversed(other.split())), other) for _, other in toy_lines(700, fewest=5)]
    _, counts = cleaned(rows)
    assert counts["other side's language"] == 0
    assert counts["kept"] > 500


def test_order_and_result_do_not_depend_on_workers(cleaned: Cleaned) -> None:
    assert cleaned(toy_lines(9000)) == cleaned(toy_lines(9000), workers=2)


def test_duplicates_are_found_across_partitions(cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*toy_lines(300), *toy_lines(300)]
    whole = cleaned(lines)
    monkeypatch.setattr(columns, "PARTITION", 50)
    monkeypatch.setattr(columns.read_blocks, "__defaults__", (7,))
    assert cleaned(lines) == whole and whole[1]["duplicates"] >= 300


def test_near_duplicates_go_on_demand(cleaned: Cleaned) -> None:
    lines = [("Katu meri 12", "Street sea 12"), ("katu meri 13!", "street sea 13"), ("katu lolo", "street tree")]
    assert cleaned(lines)[1]["kept"] == 3
    rows, counts = cleaned(lines, near_duplicates=False)
    assert counts["near duplicates"] == 1 and rows[0].second == "Street sea 12"


def test_vocabularies_of_a_sample_still_find_wrong_sides(cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.cleaning.SENTENCES_LOOKED_AT", 200)
    wrong = ("gold wolf tree boat milk", "star king sea gold horse")
    rows, counts = cleaned([*toy_lines(700, fewest=5), wrong])
    assert counts["other side's language"] == 1 and wrong[0] not in {row.first for row in rows}
