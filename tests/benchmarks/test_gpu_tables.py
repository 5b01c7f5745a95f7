"""One command for all tables of a GPU: its plan, its limit, and its rehearsal on the CPU."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
import time
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


def test_the_gpus_tests_are_found_by_their_mark() -> None:
    assert {"tests/moe/test_gpu.py", "tests/moe/kernels/test_triton_gpu.py"} <= set(gpu_tables.GPU_TESTS)
    assert all(name in TABLES[0].on_gpu for name in gpu_tables.GPU_TESTS)


def test_the_plan_keeps_the_limit() -> None:
    assert sum(table.seconds for table in TABLES) <= LIMIT == 360


@pytest.mark.parametrize("table", IN_ONE_PROCESS, ids=lambda table: table.name)
def test_a_table_is_rehearsed(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *options = shlex.split(table.rehearsal)
    path = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", [module, *options, "--json", str(path)])
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test's
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


@pytest.mark.parametrize(
    ("content", "how"),
    [
        ('{"rows": [', "no rows"),
        ('{"rows": []}', "no rows"),
        ('{"rows": [{"updates/s": 1.0}, {"updates/s": null}]}', "rows without updates/s"),
        ('{"rows": [{"updates/s": 1.0}, {"updates/s": 2.0}]}', ""),
    ],
)
def test_a_table_without_its_numbers_is_told(content: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "updates.json"
    path.write_text(content)
    assert gpu_tables.gaps(BY_NAME["updates"], path) == how
    assert len(summary(tmp_path)) == len(GOALS)


def test_numbers_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "updates.json").write_text('{"rows": [{"updates/s": 3.0}]}')
    (row,) = run_all([Table("updates", 1, "", "this")], tmp_path, on_gpu=False)
    assert row["ended"] == "no rows"


def test_nothing_is_left_of_a_command_that_took_too_long(tmp_path: Path) -> None:
    note = shlex.quote(str(tmp_path / "process"))
    assert gpu_tables.ended(["sh", "-c", f"sleep 60 & echo $! > {note}; wait"], limit=1) is None
    process = int((tmp_path / "process").read_text())
    for _ in range(1000):  # a killed process may have to wait for its turn to end
        if not runs(process):
            return
        time.sleep(0.01)
    pytest.fail(f"process {process} still runs")


def runs(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_table_is_stopped_at_the_limit_and_the_rest_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tables, "LIMIT", 1)
    slow = "timeit -n 1 -r 1 '__import__(\"time\").sleep(30)'"
    tables = [Table(name, 0, slow, "", writes_json=False) for name in "ab"]
    first, second = (row["ended"] for row in run_all(tables, tmp_path, on_gpu=True))
    assert (first, second) == ("stopped after 1 s", "left out: no time")
