"""One command for all tables of a GPU: its plan, its limit, and its rehearsal on the CPU."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_tables
from benchmarks.gpu_tables import GOALS, LIMIT, TABLES, Table, reached, run_all, summary

BY_NAME = {table.name: table for table in TABLES}
IN_ONE_PROCESS = [table for table in TABLES if table.writes_json and table.name != "updates"]


def words(command: str) -> dict[str, list[str]]:
    """Options of a command with their values."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in shlex.split(command)[1:]:
        if word.startswith("--"):
            name, found[word] = word, []
        else:
            found[name].append(word)
    return found


def test_the_plan_keeps_the_limit() -> None:
    assert sum(table.seconds for table in TABLES) <= LIMIT == 360


@pytest.mark.parametrize("table", IN_ONE_PROCESS, ids=lambda table: table.name)
def test_a_table_is_rehearsed(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *options = shlex.split(table.rehearsal)
    path = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", [module, *options, "--json", str(path)])
    runpy.run_module(module, run_name="__main__")
    assert json.loads(path.read_text())["rows"]
    assert words(table.rehearsal).keys() >= words(table.on_gpu).keys() - {
        "--dtype",
        "--systems",
        "--tokens",
        "--eval-tokens",
    }


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.title)
def test_each_number_to_reach_is_a_cell_of_a_table(goal: gpu_tables.Goal, tmp_path: Path) -> None:
    options = words(BY_NAME[goal.table].on_gpu)
    for option, name in (
        ("--tokens", "tokens"),
        ("--sentences", "sentences"),
        ("--systems", "system"),
        ("--models", "model"),
    ):
        value = goal.where.get(name)
        if goal.where.get("mode") != "eval" and option in options and value not in (None, "dense"):
            assert str(value) in options[option]
    row = {**goal.where, goal.column: goal.reach}
    (tmp_path / f"{goal.table}.json").write_text(json.dumps({"rows": [{"system": "other"}, row]}))
    assert reached(goal, tmp_path) == goal.reach
    assert [row["reached"] for row in summary(tmp_path) if row["number"] == goal.title] == ["yes"]


def test_what_is_not_there_is_neither_reached_nor_missed(tmp_path: Path) -> None:
    assert {row["reached"] for row in summary(tmp_path)} == {""}


def test_a_table_that_fails_does_not_stop_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tables = [Table(name, 1, "", command, writes_json=False) for name, command in (("a", "no_module"), ("b", "this"))]
    assert [row["ended"] for row in run_all(tables, tmp_path, on_gpu=False)] == ["failed with code 1", "well"]
    assert "$ python -m this" in capfd.readouterr().out


def test_a_table_is_stopped_at_the_limit_and_the_rest_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tables, "LIMIT", 1)
    slow = "timeit -n 1 -r 1 '__import__(\"time\").sleep(30)'"
    tables = [Table(name, 0, slow, "", writes_json=False) for name in "ab"]
    first, second = (row["ended"] for row in run_all(tables, tmp_path, on_gpu=True))
    assert (first, second) == ("stopped after 1 s", "left out: no time")
