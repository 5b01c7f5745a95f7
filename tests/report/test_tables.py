"""Tables of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoe_mt.evaluation.scores import DirectionScores, as_json
from smoe_mt.report.run import Run
from smoe_mt.report.tables import (
    MANY,
    NONE,
    _millions,
    best_of_columns,
    best_of_rows,
    pairs_table,
    scores_table,
    summary,
)


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
    table = dict(zip(summary([run], {}, "test").columns, row))
    assert (table["chrF++"], table["BLEU"], table["Scores of"]) == ("20.0", "10.0", "test")
    assert "Difference (p)" not in table, "one run differs from none"


@pytest.mark.parametrize(
    ("value", "shown"), [(48_800, "0.05M"), (9_876_000, "9.88M"), (615_500_000, "616M"), (0, NONE)]
)
def test_sizes_are_shown_in_millions(value: int, shown: str) -> None:
    assert _millions(value) == shown


def test_the_best_of_a_column_is_marked_also_where_it_is_shared() -> None:
    rows = [
        ["a", "12.0", "3M", "1.0"],
        ["b", "12.0", "2M", "1.0"],
        ["c", NONE, NONE, "1.0"],
        ["d", "-3.0", "4M", "1.0"],
    ]
    assert best_of_columns(rows, {1: max, 2: min, 3: max}) == {(0, 1), (1, 1), (1, 2)}


def test_the_best_run_of_a_direction_is_marked() -> None:
    rows = [["x-en", "5.0", "7.0", "1.0"], ["en-x", "6.0", "2.0", "9.9"], ["mean", "1.0", "1.0", "2.0"]]
    assert best_of_rows(rows, [1, 2]) == {(0, 2), (1, 1)}
