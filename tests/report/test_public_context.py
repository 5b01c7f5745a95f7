"""Published scores beside ours: which rows and columns there are, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.report.content import Table, Text
from smoe_mt.report.public_context import is_flores, public_context
from smoe_mt.report.run import Run

OWN = {"bleu": 10.0, "chrf": 20.0}


def evaluated(folder: Path, scores: dict[str, dict[str, float]], name: str = "run", split: str = "test") -> Run:
    """A run with an evaluation of a split, or of a file of that name."""
    evaluation = folder / name / "evaluation" / split
    evaluation.mkdir(parents=True)
    (evaluation / "scores.json").write_text(json.dumps({"directions": scores, "split": split}))
    (folder / name / "checkpoint_best.pt").touch()
    return Run(name, folder / name / "checkpoint_best.pt", {"model": {"moe": "none"}}, 1, folder)


def card(folder: Path, source: str) -> None:
    """A data card of text from one source."""
    content: dict[str, Any] = {"pairs": ["nso-en"], "splits": {"test": {"nso-en": 1}}, "sources": [{"name": source}]}
    (folder / "corpus.json").write_text(json.dumps(content))


def tables(blocks: list[Table | Text]) -> list[Table]:
    return [block for block in blocks if isinstance(block, Table)]


def words(blocks: list[Table | Text]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def test_ours_stand_beside_the_public_models(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path, {"nso-en": OWN, "nso-cat": OWN}, "a"), evaluated(tmp_path, {"nso-en": OWN}, "b")]
    (table,) = tables(public_context(runs, "test"))
    assert list(table.columns) == [
        "Direction",
        *("a: chrF++", "b: chrF++", "NLLB 600M: chrF++", "NLLB 3.3B: chrF++"),
        *("a: BLEU", "b: BLEU", "NLLB 600M: BLEU", "NLLB 3.3B: BLEU"),
    ]
    assert table.rows == [["nso-en", "20.0", "20.0", "55.8", "59.4", "10.0", "10.0", "35.2", "39.5"]]
    assert table.minor == {5, 6, 7, 8} and not table.best, "what does not compare has no best"


def test_a_metric_that_only_the_public_models_have_has_no_columns(tmp_path: Path) -> None:
    (table,) = tables(public_context([evaluated(tmp_path, {"nso-en": {"bleu": 10.0}})], "test"))
    assert list(table.columns) == ["Direction", "run: BLEU", "NLLB 600M: BLEU", "NLLB 3.3B: BLEU"]
    assert not table.minor


@pytest.mark.parametrize("direction", ["sv-fi", "de-en", "tgl-en"])
def test_without_a_known_direction_there_is_nothing(tmp_path: Path, direction: str) -> None:
    assert public_context([evaluated(tmp_path, {direction: OWN})], "test") == []


def test_source_and_difference_of_the_texts_are_said(tmp_path: Path) -> None:
    text = words(public_context([evaluated(tmp_path, {"nso-en": OWN, "en-tgl": OWN})], "test"))
    assert "other text (test)" in text and "commits" in text and "tok:13a" in text
    assert "Left out: en-tgl." in text


def test_other_splits_are_not_shown_but_those_of_flores_are(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path, {"nso-en": OWN}, "a", "valid"), evaluated(tmp_path, {"en-nso": OWN}, "b", "flores200")]
    blocks = public_context(runs, "test")
    (table,) = tables(blocks)
    assert [row[0] for row in table.rows] == ["en-nso"]
    assert "text of FLORES too (flores200)" in words(blocks) and "other text" not in words(blocks)


@pytest.mark.parametrize(("source", "flores"), [("Flores-flores200_devtest-1-eng-nso", True), ("nso.po", False)])
def test_the_data_card_tells_where_the_test_set_comes_from(tmp_path: Path, source: str, flores: bool) -> None:
    run = evaluated(tmp_path, {"nso-en": OWN})
    card(tmp_path, source)
    assert is_flores(run, "test") == flores
    assert not is_flores(run, "valid")
