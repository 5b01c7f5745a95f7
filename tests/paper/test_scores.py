"""The paper's scores, and how ours are found beside them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from smoe_mt.paper.costs import COSTS
from smoe_mt.paper.scores import M4, M15, TABLES
from smoe_mt.paths import scripts


@pytest.mark.parametrize("benchmark", TABLES)
def test_every_row_has_a_score_for_every_column(benchmark: str) -> None:
    table = TABLES[benchmark]
    assert all(len(row.scores) == len(table.columns) for row in table.rows.values())


def test_m4_averages_are_those_of_its_directions() -> None:
    """A slip of the pen in one of the eight would show."""
    for row in M4.rows.values():
        assert sum(row.scores[:8]) / 8 == pytest.approx(row.scores[8], abs=0.011), row.title


def test_m15_averages_are_those_of_both_ways() -> None:
    for row in M15.rows.values():
        assert (row.scores[0] + row.scores[4]) / 2 == pytest.approx(row.scores[8], abs=0.011), row.title


@pytest.mark.parametrize("benchmark", COSTS)
def test_rows_have_the_names_of_the_cost_table(benchmark: str) -> None:
    assert set(TABLES[benchmark].rows) == set(COSTS[benchmark])


def test_a_column_finds_our_score_or_none() -> None:
    scores = {"classes": {"very low": {"mean_to_en": {"bleu": 20.5}}}, "mean": {"bleu": 3.0}, "mean_to_en": None}
    found = {column.title: column.of(scores) for column in M15.columns}
    assert found["xx-en very low"] == 20.5 and found["avg"] == 3.0
    assert found["xx-en all"] is None and found["en-xx high"] is None


def test_the_script_trains_the_rows_of_the_tables() -> None:
    script = (scripts() / "benchmark.sh").read_text()
    rows = {
        name: tuple(found.split(","))
        for name, found in re.findall(r"^(\w+)\) all_rows=(\S+) ;;$", script, re.MULTILINE)
    }
    assert rows == {name: tuple(table.rows) for name, table in TABLES.items()}


def test_reading_the_paper_needs_no_torch() -> None:
    program = (
        "import sys; from smoe_mt.paper import benchmarks, costs, resources, scores; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
