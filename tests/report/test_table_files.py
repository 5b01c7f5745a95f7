"""Tables as LaTeX, CSV and Markdown."""

from __future__ import annotations

import csv
from pathlib import Path

from smoe_mt.report.content import Table
from smoe_mt.report.table_files import as_latex, as_markdown, escape_latex, write_tables

TABLE = Table(
    ("Run", "chrF++", "p"),
    [["a_b", "50.0", "\u2013"], ["c & d", "51.5", "\u22121.2"], ["mean", "1", "2"]],
    name="scores of test",
    marked=frozenset({2}),
    best=frozenset({(1, 1)}),
)


def test_latex_escapes_and_marks_the_best() -> None:
    assert as_latex(TABLE).splitlines()[1:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Run & chrF++ & p \\",
        r"\midrule",
        r"a\_b & 50.0 & -- \\",
        r"c \& d & \textbf{51.5} & $-$1.2 \\",
        r"\midrule",
        r"mean & 1 & 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert escape_latex("\\ ^ ~ {x} 5%\n#") == r"\textbackslash{} \textasciicircum{} \textasciitilde{} \{x\} 5\% \#"


def test_markdown_has_the_best_in_bold_and_the_names_of_marked_rows() -> None:
    assert as_markdown(TABLE).splitlines()[2:] == [
        r"| a\_b | 50.0 | – |",
        "| c &amp; d | **51.5** | −1.2 |",
        "| **mean** | 1 | 2 |",
    ]


def test_each_table_has_three_files_of_its_own(tmp_path: Path) -> None:
    write_tables(tmp_path, [TABLE, TABLE, Table(("x",), [["1"]], name="../../etc/passwd")])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}"
        for name in ("scores_of_test", "scores_of_test_2", "etc_passwd")
        for kind in ("tex", "csv", "md")
    }
    with (tmp_path / "scores_of_test.csv").open(encoding="utf-8", newline="") as stream:
        assert [*csv.reader(stream)] == [[*TABLE.columns], *([*row] for row in TABLE.rows)]
