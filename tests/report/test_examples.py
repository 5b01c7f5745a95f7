"""Sentences that a report shows: chosen by quantiles, written in their direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.report.content import Examples, Text
from smoe_mt.report.examples import CANDIDATES, chosen, examples, same_text
from smoe_mt.text_direction import direction_of
from tests.report.test_outputs import REFERENCES, SOURCES, stored

REFERENCE = "abcdefghijklmnopqrstuvw"


def graded(count: int, reverse: bool = False) -> Corpus:
    """Output number i has i letters of its reference right."""
    outputs = [REFERENCE[:i] or "-" for i in range(count)]
    return Corpus("x-en", ("s",) * count, tuple(outputs[::-1] if reverse else outputs), (REFERENCE,) * count)


def test_the_deciles_and_the_median_are_shown() -> None:
    found = chosen({"run": graded(21)})
    assert [(one.title, one.line) for one in found] == [("lowest decile", 3), ("median", 11), ("highest decile", 19)]
    scores = [one.outputs["run"][1] for one in found]
    assert scores == sorted(scores) and scores[0] < scores[1] < scores[2]


def test_the_rank_is_the_mean_over_the_runs() -> None:
    """Of two runs with opposite orders none decides alone."""
    alone, both = chosen({"a": graded(11)}), chosen({"a": graded(11), "b": graded(11, reverse=True)})
    assert [one.line for one in alone] != [one.line for one in both]
    means = [sum(score for _, score in one.outputs.values()) for one in both]
    assert means == sorted(means)


def test_few_sentences_are_shown_once() -> None:
    assert [one.line for one in chosen({"run": graded(1)})] == [1]


def test_of_many_sentences_those_evenly_over_the_text_are_ranked() -> None:
    corpus = Corpus("x-en", ("s",) * 3 * CANDIDATES, ("a b",) * 3 * CANDIDATES, ("a b",) * 3 * CANDIDATES)
    assert {(one.line - 1) % 3 for one in chosen({"run": corpus})} == {0}


def test_a_run_with_the_first_sentences_alone_is_shown_beside_one_with_all() -> None:
    found = same_text({"all": graded(9), "first": Corpus("x-en", ("s",) * 4, ("o",) * 4, (REFERENCE,) * 4)})
    assert {name: len(one.hypotheses) for name, one in found.items()} == {"all": 4, "first": 4}


def test_a_run_with_other_sentences_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "a", REFERENCES), stored(tmp_path / "b", REFERENCES)
    table = tmp_path / "b" / "evaluation" / "test" / "hypotheses" / "de-en.tsv"
    table.write_text(table.read_text().replace(SOURCES[0], "something else"))
    _, remark, shown = examples([one, other], "test")
    assert isinstance(remark, Text) and "b: translated other sentences of de-en than a" in remark.text
    assert isinstance(shown, Examples)
    assert [*shown.directions["de-en"][0].outputs] == ["a"] and [*shown.directions["en-de"][0].outputs] == ["a", "b"]


@pytest.mark.parametrize(("text", "written"), [
    ("house", "ltr"), ("\u0628\u064a\u062a", "rtl"), ("\u05d1\u05d9\u05ea 1999", "rtl"), ("", "ltr"), ("1, 2", "ltr"),
    ("NATO \u0628\u064a\u062a\u0643\u0645", "rtl"), ("the word \u0628\u064a\u062a", "ltr"),
])  # fmt: skip
def test_text_is_written_as_most_of_its_letters(text: str, written: str) -> None:
    assert direction_of(text) == written
