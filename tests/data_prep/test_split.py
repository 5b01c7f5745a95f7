"""Held-out sets: nothing leaks, whatever the corpora; the draw depends on the strings alone."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import folded
from data_prep.rows import Row, languages_of, read_rows, write_rows
from data_prep.split import FACTS, FACTS_FILE, ROWS_FILE, Cleaned, SplitOptions, facts_of, word_count
from data_prep.split import split as split_files
from tests.data_prep.toy import toy_lines

WORDS = st.sampled_from(["save", "Save", "the", "file", "2", "!", "now", "please", "open"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
CORPORA = st.dictionaries(
    st.sampled_from(["xaa-en", "xbb-en", "xaa-xbb"]),
    st.lists(st.builds(Row, st.just("t"), SENTENCES, SENTENCES), min_size=1, max_size=40, unique=True),
    min_size=1,
)


Rows = dict[str, list[Row]]


class Splits(NamedTuple):
    """What was written, by split and pair, and what was left out for what is held out."""

    rows: dict[str, Rows]
    shared: dict[str, int]


def split(corpora: Rows, given: dict[str, Rows], options: SplitOptions, **more: Any) -> Splits:
    """Split rows in memory by way of the files that the stages use."""
    with TemporaryDirectory() as root:
        cleaned, sets, out = {}, {}, Path(root) / "out"
        out.mkdir()
        for pair, rows in corpora.items():
            folder = Path(root) / pair
            folder.mkdir()
            write_rows(folder / ROWS_FILE, rows)
            np.array([facts_of(pair, row, options) for row in rows], dtype=FACTS).tofile(folder / FACTS_FILE)
            cleaned[pair] = Cleaned(folder, len(rows))
        for name, by_pair in given.items():
            for pair, rows in by_pair.items():
                path = Path(root) / f"{name}.{pair}.tsv"
                write_rows(path, rows)
                sets.setdefault(name, {})[pair] = path
        result = split_files(cleaned, sets, options, out, **more)
        found: dict[str, Rows] = {name: {} for name in ("train", "valid", "test")}
        for path in out.glob("*.tsv"):
            name, pair = path.stem.split(".")
            found[name][pair] = list(read_rows(path))
            assert result.sizes[name][pair] == len(found[name][pair])
        return Splits(found, result.shared)


def strings(rows: list[Row], pair: str) -> set[tuple[str, str]]:
    """(language, folded string) of both sides."""
    one, other = languages_of(pair)
    return {(one, folded(row.first)) for row in rows} | {(other, folded(row.second)) for row in rows}


def of_split(result: Splits, name: str) -> set[tuple[str, str]]:
    return {key for pair, rows in result.rows.get(name, {}).items() for key in strings(rows, pair)}


@settings(deadline=None, max_examples=50)
@given(CORPORA)
def test_no_held_out_string_is_trained_on_in_any_pair(corpora: dict[str, list[Row]]) -> None:
    result = split(corpora, {}, SplitOptions(10, 10, 2))
    train = of_split(result, "train")
    assert not train & of_split(result, "test")
    assert not train & of_split(result, "valid")
    assert not of_split(result, "valid") & of_split(result, "test")


@settings(deadline=None, max_examples=50)
@given(CORPORA, st.integers(0, 9))
def test_the_order_of_lines_and_pairs_does_not_matter(corpora: dict[str, list[Row]], seed: int) -> None:
    shuffled = {pair: random.Random(seed).sample(rows, len(rows)) for pair, rows in reversed(corpora.items())}
    options = SplitOptions(10, 10, 2)
    one, other = split(corpora, {}, options), split(shuffled, {}, options)
    assert {n: one.rows[n] for n in ("valid", "test")} == {n: other.rows[n] for n in ("valid", "test")}


def toy(count: int) -> dict[str, list[Row]]:
    lines = toy_lines(count, fewest=5)
    return {
        "xaa-en": [Row("t", *line) for line in lines],
        "xbb-en": [Row("t", one[::-1], other) for one, other in lines],
    }


def test_languages_share_test_sentences() -> None:
    tests = split(toy(300), {}, SplitOptions()).rows["test"]
    assert [row.second for row in tests["xaa-en"]] == [row.second for row in tests["xbb-en"]]


@pytest.mark.parametrize("count, size", [(2, 0), (3, 1), (30, 2), (240, 20), (1200, 50)])
def test_small_corpora_keep_their_training_text(count: int, size: int) -> None:
    corpora = {"xaa-en": [Row("t", *line) for line in toy_lines(count, fewest=6, most=14)]}
    result = split(corpora, {}, SplitOptions(50, 50))
    assert [len(result.rows[name].get("xaa-en", ())) for name in ("valid", "test")] == [size, size]


def test_sentences_are_long_enough_where_there_are_enough() -> None:
    tests = split({"xaa-en": [Row("t", *line) for line in toy_lines(600, fewest=1)]}, {}, SplitOptions()).rows["test"]
    assert min(len(row.second.split()) for row in tests["xaa-en"]) >= 5


def test_short_sentences_fill_up_and_this_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("t", *line) for line in toy_lines(60, fewest=2, most=4)]
    assert split({"xaa-en": rows}, {}, SplitOptions()).rows["test"]["xaa-en"]
    assert "others added" in capsys.readouterr().err


def test_given_sets_are_kept_whole_and_held_out() -> None:
    corpora = toy(200)
    held = corpora["xaa-en"][:3]
    result = split(corpora, {"test": {"xaa-en": held}}, SplitOptions())
    assert result.rows["test"]["xaa-en"] == held
    assert not of_split(result, "train") & strings(held, "xaa-en")
    assert result.shared["xaa-en"] == 200 - len(result.rows["train"]["xaa-en"]) - len(result.rows["valid"]["xaa-en"])


def test_another_seed_draws_another_set() -> None:
    draws = [split(toy(300), {}, SplitOptions(seed=seed)).rows["test"] for seed in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    "text, least, most", [("one two three", 3, 3), ("这是一个很长的句子吗", 4, 4), ("ภาษาไทย ok", 3, 5)]
)
def test_words_of_scripts_without_spaces(text: str, least: int, most: int) -> None:
    assert least <= word_count(text) <= most


def test_overlap_by_pair_keeps_what_shares_one_side() -> None:
    lines = toy_lines(300, fewest=5)
    corpora = {"xaa-en": [Row("t", text, other) for one, other in lines for text in (one, one[::-1])]}
    by_string, by_pair = (split(corpora, {}, SplitOptions(overlap=name)) for name in ("string", "pair"))
    assert len(by_pair.rows["train"]["xaa-en"]) > len(by_string.rows["train"]["xaa-en"])
    for name in ("valid", "test"):
        assert not set(by_pair.rows["train"]["xaa-en"]) & set(by_pair.rows[name]["xaa-en"])


def test_zero_shot_pairs_are_held_out_and_not_trained_on() -> None:
    result = split(toy(300), {}, SplitOptions(20, 20), untrained=["xbb-en"])
    assert set(result.rows["train"]) == {"xaa-en"} and len(result.rows["test"]["xbb-en"]) == 20
    assert not of_split(result, "train") & of_split(result, "test")


def test_the_limit_takes_rows_from_all_over() -> None:
    corpora = {"xaa-en": toy(300)["xaa-en"]}
    whole, limited = (split(corpora, {}, SplitOptions(), most=most).rows["train"]["xaa-en"] for most in (None, 10))
    assert limited == [whole[number * len(whole) // 10] for number in range(10)]
