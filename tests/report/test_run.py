"""What a run is called in the paper's tables, and what is read of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.analysis.capacity import FORMAT
from smoe_mt.analysis.command import NUMBERS, SENTENCES
from smoe_mt.errors import UserError
from smoe_mt.report.run import Run, row_name
from smoe_mt.report.strata import NUMBERS_FORM, Analysis, analysis_of
from smoe_mt.report.tables import scores_table


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"moe": "none"}, "dense"),
        ({"moe": "vanilla", "num_experts": 8}, "vanilla"),
        ({"moe": "vanilla", "num_experts": 32}, "vanilla_32"),
        ({"moe": "eom"}, "eom"),
        ({"moe": "stratified", "strata": [4, 12]}, "smoe_4_12"),
        ({"moe": "stratified", "strata": "2,2,2,2"}, "smoe_2_2_2_2"),
        ({"moe": "stacking", "strata": [4, 4]}, "stacking_2_4"),
        ({"moe": "stacking", "strata": [2, 2, 2, 2]}, "stacking_4_2"),
    ],
)
def test_a_model_has_the_name_of_its_config(model: dict[str, object], name: str) -> None:
    assert row_name(model) == name


def a_run(folder: Path, name: str, content: Any) -> Run:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    (folder / "checkpoint_best.pt").touch()
    return Run("run", folder / "checkpoint_best.pt", {"model": {"moe": "none"}}, 1, folder)


SCORES = "evaluation/test/scores.json"


@pytest.mark.parametrize("content", [
    [], {}, {"directions": 1.5}, {"directions": {"a-b": []}}, {"directions": {"a-b": {"signatures": ["x"]}}},
    {"directions": {}, "classes": 3}, {"directions": {}, "classes": {"low": 3}},
])  # fmt: skip
def test_scores_of_another_form_are_told(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scores.json: holds no"):
        _ = a_run(tmp_path, SCORES, content).scores


@pytest.mark.parametrize("value", ["x", None, [], {}, 10**400, True])
def test_a_score_that_is_no_number_is_left_out(value: Any, tmp_path: Path) -> None:
    run = a_run(
        tmp_path, SCORES, {"directions": {"a-b": {"bleu": value, "chrf": 5}}, "mean": value, "baselines": value}
    )
    rows = scores_table([run], "test").rows
    assert rows[0][0] == "a-b" and rows[0][2:] == ["5.0"]


@pytest.mark.parametrize("change", [
    {"pairs": 1}, {"splits": {"test": 1}}, {"languages": 1}, {"vocab_size": "x"}, {"sources": [1]},
    {"sources": [{"pairs": {"a-b": "x"}}]},
])  # fmt: skip
def test_a_data_card_of_another_form_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    card = {"pairs": ["a-b"], "splits": {"test": {"a-b": 1}}, "languages": ["a", "b"], "vocab_size": 3, "sources": []}
    assert a_run(tmp_path, "corpus.json", card).card == card
    with pytest.raises(UserError, match="corpus.json: lacks what a report needs"):
        _ = a_run(tmp_path, "corpus.json", card | change).card


SIDE = {"tokens": ["a", "b"], "visits": {"encoder.layers.1": [1, 2]}}


@pytest.mark.parametrize("side", [
    [], {"tokens": ["a"]}, {"tokens": "ab", "visits": {}}, {"tokens": ["a"], "visits": {"encoder.layers.1": ["x"]}},
    {"tokens": ["a"], "visits": {"encoder.layers.1": [1, 2]}}, {"tokens": ["a", "b"], "visits": {"encoder.layers.1": [1]}},
])  # fmt: skip
def test_sentences_of_another_form_are_told(side: Any, tmp_path: Path) -> None:
    analysis = Analysis(tmp_path, {"strata": 2, "blocks": {}})
    for second, known in ((SIDE, True), (side, False)):
        content = {"directions": {"a-b": [{"line": 1, "encoder": SIDE, "decoder": second}]}}
        (tmp_path / SENTENCES).write_text(json.dumps(content))
        if known:
            (shown,) = analysis.sentences()["directions"]["a-b"]
            assert shown == {"line": 1, "encoder": {**SIDE, "dir": "ltr"}, "decoder": {**SIDE, "dir": "ltr"}}
        else:
            with pytest.raises(UserError, match=SENTENCES):
                analysis.sentences()


@pytest.mark.parametrize("name", [name for name in NUMBERS_FORM if not name.endswith("?") and name != "updates"])
def test_numbers_of_another_form_are_told(name: str, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"format": FORMAT, "model": "m", "updates": 1, "ranks": "r", "min_count": 1, "strata": 2}
    numbers |= {"collapsed": [], "blocks": {}}
    run = a_run(tmp_path, f"analysis/test/{NUMBERS}", numbers)
    run = dataclasses.replace(run, config={"model": {"moe": "stratified"}})
    assert isinstance(analysis_of(run, "test", None, "cpu"), Analysis)
    (tmp_path / "analysis" / "test" / NUMBERS).write_text(json.dumps({**numbers, name: None}))
    with pytest.raises(UserError, match=f"{NUMBERS}: lacks what a report needs"):
        analysis_of(run, "test", None, "cpu")
