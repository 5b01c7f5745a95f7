"""The paper's scores (section 5: tables of M4, M15 and OPUS-100), rows by the names of `configs/model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a table of the paper, and where its value lies in an evaluation's scores.json."""

    title: str
    path: tuple[str, ...]

    def of(self, scores: Mapping[str, Any], metric: str = "bleu") -> float | None:
        """The value of an evaluation, or None where it has none."""
        found: Any = scores
        for key in (*self.path, metric):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True)
class PaperRow:
    """A system's name and its BLEU in the order of the columns."""

    title: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, PaperRow]


def _classes(*classes: str) -> tuple[Column, ...]:
    columns = []
    for title, group in (("en-xx", "mean_from_en"), ("xx-en", "mean_to_en")):
        columns.append(Column(f"{title} all", (group,)))
        columns += [Column(f"{title} {name}", ("classes", name, group)) for name in classes]
    return (*columns, Column("avg", ("mean",)))


def _rows(table: str) -> dict[str, PaperRow]:
    """From lines of name, title and scores with `|` between the three."""
    found = {}
    for line in table.strip().splitlines():
        name, title, scores = (cell.strip() for cell in line.split("|"))
        found[name] = PaperRow(title, tuple(map(float, scores.split())))
    return found


LANGUAGES = ("nso", "msa", "tgl", "cat")
M4 = PaperTable(
    "M4, 8 experts",
    (
        *(Column(f"{language}-en", ("directions", f"{language}-en")) for language in LANGUAGES),
        *(Column(f"en-{language}", ("directions", f"en-{language}")) for language in LANGUAGES),
        Column("avg", ("mean",)),
    ),
    _rows(
        """
        dense        | Dense          | 28.87 37.01 41.76 40.35 26.68 44.30 38.20 45.50 37.83
        vanilla      | Vanilla MoE    | 29.45 41.26 44.23 42.91 27.59 47.12 40.10 47.66 40.04
        switch       | Switch         | 29.69 40.35 44.50 43.19 27.73 46.44 39.88 47.26 39.88
        eom          | MoE+EOM        | 30.52 40.50 44.52 43.48 27.71 46.85 40.09 47.14 40.10
        cmr          | MoE+CMR        | 30.54 41.29 44.65 43.71 27.76 46.87 40.36 47.65 40.35
        stacking_2_4 | Stacking 2 x 4 | 28.65 39.24 42.02 41.36 27.58 46.27 40.06 47.50 39.09
        smoe_4_4     | SMoE-4-4       | 30.14 41.05 45.13 43.97 27.86 47.48 39.85 47.71 40.40
        stacking_4_2 | Stacking 4 x 2 | 25.53 35.53 38.34 37.43 24.99 41.35 36.85 42.15 35.27
        smoe_2_2_2_2 | SMoE-2-2-2-2   | 30.96 41.88 44.86 43.37 27.83 47.96 40.95 48.39 40.78
        """
    ),
)
M15 = PaperTable(
    "M15, 16 experts",
    _classes("high", "low", "very low"),
    _rows(
        """
        dense        | Dense                   | 29.27 38.68 32.44 16.69 29.94 37.55 32.37 19.89 29.61
        vanilla      | Vanilla MoE             | 32.01 40.41 34.77 20.84 32.00 39.38 34.73 21.89 32.00
        switch       | Switch                  | 31.67 40.44 34.72 19.87 32.09 39.85 34.75 21.68 31.89
        eom          | MoE+EOM                 | 32.02 40.63 35.19 20.25 32.81 40.42 35.33 22.69 32.41
        cmr          | MoE+CMR                 | 31.83 40.22 34.81 20.46 33.02 40.41 35.42 23.21 32.42
        smoe_4_12    | SMoE-4-12               | 33.00 41.14 35.77 22.10 32.86 40.63 35.14 22.80 32.93
        smoe_12_4    | SMoE-12-4               | 32.52 41.11 35.56 20.89 32.94 40.03 35.21 23.60 32.73
        smoe_8_8     | SMoE-8-8                | 32.28 41.24 35.33 20.27 32.72 40.30 34.80 23.08 32.50
        smoe_4_4_8   | SMoE-4-4-8              | 32.83 41.61 35.82 21.07 32.24 39.40 34.53 22.80 32.54
        smoe_8_4_4   | SMoE-8-4-4              | 32.24 40.99 35.12 20.61 33.06 40.36 35.12 23.71 32.65
        smoe_4_4_4_4 | SMoE-4-4-4-4            | 32.87 41.50 35.68 21.42 32.63 40.03 34.50 23.35 32.75
        vanilla_32   | Vanilla MoE, 32 experts | 32.98 41.05 35.69 22.19 32.90 40.79 35.49 22.42 32.94
        """
    ),
)
OPUS100 = PaperTable(
    "OPUS-100, 16 experts",
    _classes("high", "medium", "low"),
    _rows(
        """
        dense        | Dense        | 27.37 23.89 31.17 29.76 30.60 29.40 31.85 31.49 28.99
        vanilla      | Vanilla MoE  | 30.34 26.16 34.78 33.38 32.38 31.20 33.67 33.21 31.36
        switch       | Switch       | 30.03 25.76 34.46 33.27 31.44 30.58 33.00 31.18 30.74
        eom          | MoE+EOM      | 30.48 26.24 34.76 33.86 32.45 31.23 33.69 33.44 31.47
        cmr          | MoE+CMR      | 30.56 26.32 34.98 33.77 32.43 31.33 33.69 33.11 31.50
        smoe_4_12    | SMoE-4-12    | 32.15 27.99 36.67 35.06 32.58 32.42 33.76 31.37 32.37
        smoe_4_4_4_4 | SMoE-4-4-4-4 | 31.84 27.31 36.52 35.33 32.71 31.87 33.80 33.04 32.28
        """
    ),
)

TABLES: dict[str, PaperTable] = {"m4": M4, "m15": M15, "opus100": OPUS100}
