"""The table of counts that ends a preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.card import split_names, steps_taken

MOST_COLUMNS = 6


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in cells
    ]
    return "\n".join((lines[0], "-" * len(lines[0]), *lines[1:]))


def summary(corpus: Mapping[str, Any]) -> str:
    """What a corpus.json holds: pairs by split, and what each cleaning step took out."""
    pairs, splits, counts = corpus["pairs"], corpus["splits"], corpus["counts"]
    names = split_names(splits)
    by_split = [[pair, *(f"{splits.get(name, {}).get(pair, 0):,}" for name in names)] for pair in pairs]
    total = ["all", *(f"{sum(splits.get(name, {}).values()):,}" for name in names)]
    cleaned = [pair for pair in pairs if pair in counts]
    steps = [[step, *(f"{counts[pair].get(step, 0):,}" for pair in cleaned)] for step in steps_taken(corpus)]
    first, second = ["cleaning", *cleaned], steps
    if len(cleaned) > MOST_COLUMNS:
        first, *second = (list(column) for column in zip(first, *steps))
    return "\n\n".join((table(["pairs of sentences", *names], [*by_split, total]), table(first, second)))
