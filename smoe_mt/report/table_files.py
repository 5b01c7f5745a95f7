"""Tables as files for papers and spreadsheets: LaTeX (booktabs), CSV and Markdown."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable
from pathlib import Path

from smoe_mt.files import write_text
from smoe_mt.report.content import Table

LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "\u2013": "--", "\u2212": "$-$", "\u00b1": r"$\pm$",
}  # fmt: skip


def write_tables(folder: Path, tables: list[Table]) -> None:
    """NAME.tex, NAME.csv and NAME.md of each table; of tables of one name the later ones are numbered."""
    used: dict[str, int] = {}
    for table in tables:
        name = re.sub(r"[^\w.-]+", "_", table.name).strip("._") or "table"
        used[name] = used.get(name, 0) + 1
        if used[name] > 1:
            name = f"{name}_{used[name]}"
        for kind, written in KINDS.items():
            write_text(folder / f"{name}.{kind}", written(table))


def as_latex(table: Table) -> str:
    """A tabular of the package booktabs, the best in bold, a rule where marked rows begin or end."""
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{('l' if table.words else 'r') * (len(table.columns) - 1)}}}",
    ]
    lines += [r"\toprule", _latex_row([escape_latex(column) for column in table.columns]), r"\midrule"]
    for place, row in enumerate(table.rows):
        if place and (place in table.marked) != (place - 1 in table.marked):
            lines.append(r"\midrule")
        cells = [escape_latex(cell) for cell in row]
        lines.append(_latex_row([rf"\textbf{{{c}}}" if (place, at) in table.best else c for at, c in enumerate(cells)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def as_csv(table: Table) -> str:
    """The cells as they are shown."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.columns, *table.rows])
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """Marked rows have a bold name, or are bold as a whole where no cell is the best."""
    lines = [_markdown_row([escape_markdown(column) for column in table.columns])]
    lines.append("|---|" + ("---|" if table.words else "---:|") * (len(table.columns) - 1))
    for place, row in enumerate(table.rows):
        bold = {at for at in range(len(row)) if (place, at) in table.best}
        if place in table.marked:
            bold |= {0} if table.best else set(range(len(row)))
        cells = [escape_markdown(cell) for cell in row]
        lines.append(_markdown_row([f"**{cell}**" if at in bold else cell for at, cell in enumerate(cells)]))
    return "\n".join([*lines, ""])


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell too."""
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


KINDS: dict[str, Callable[[Table], str]] = {"tex": as_latex, "csv": as_csv, "md": as_markdown}
