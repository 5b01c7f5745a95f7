"""Tables of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoe_mt.evaluation.scores import DirectionScores, as_json
from smoe_mt.report.run import Run
from smoe_mt.report.tables import MANY, pairs_table, scores_table, summary


def evaluated(folder: Path, directions: list[str]) -> Run:
    scores = as_json({direction: DirectionScores({"bleu": 10.0, "chrf": 20.0}, {}, 5) for direction in directions})
    (folder / "evaluation" / "test").mkdir(parents=True)
    content = {**scores, "baselines": {"copy": scores}}
    (folder / "evaluation" / "test" / "scores.json").write_text(json.dumps(content))
    (folder / "checkpoint_best.pt").touch()
    return Run("run", folder / "checkpoint_best.pt", {"model": {"moe": "none"}}, 1, folder)


@pytest.mark.parametrize("number", [MANY, MANY + 1])
def test_means_come_first_where_directions_are_many(tmp_path: Path, number: int) -> None:
    directions = [f"l{place}-en" for place in range(number)]
    table = scores_table([evaluated(tmp_path, directions)], "test")
    names, means = [row[0] for row in table.rows], ["mean", "mean xx-en", "mean en-xx"]
    assert names == (directions + means if number <= MANY else means + directions)
    assert sorted(names[place] for place in table.marked) == sorted(means)


@pytest.mark.parametrize("number", [MANY, MANY + 1])
def test_sum_comes_first_where_pairs_are_many(number: int) -> None:
    pairs = [f"l{place}-en" for place in range(number)]
    table = pairs_table({"pairs": pairs, "splits": {"train": dict.fromkeys(pairs, 1000)}})
    (place,) = table.marked
    assert list(table.rows[place]) == ["all", f"{number},000"]
    assert place == (number if number <= MANY else 0)


def test_a_metric_that_is_zero_everywhere_has_no_column(tmp_path: Path) -> None:
    run = evaluated(tmp_path, ["aa-en"])
    path = tmp_path / "evaluation" / "test" / "scores.json"
    content = json.loads(path.read_text())
    content["directions"]["aa-en"]["copied"] = 0.0
    path.write_text(json.dumps(content))
    assert list(scores_table([run], "test").columns) == ["Direction", "copy chrF++", "run: BLEU", "run: chrF++"]


def test_the_result_names_the_scores_that_it_shows(tmp_path: Path) -> None:
    run = evaluated(tmp_path, ["aa-en"])
    (row,) = summary([run], {}, "test").rows
    assert list(row[5:8]) == ["10.0", "20.0", "test"]
