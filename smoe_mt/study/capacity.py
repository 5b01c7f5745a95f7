"""Requested against needed capacity, of the runs of a study that have strata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from smoe_mt.text_table import markdown_table

KINDS = {"frequency_ranks": "frequency rank of the target token", "directions": "direction"}


def capacity_tables(needed: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: visits and losses in the decoder by frequency class and by direction, then their rank correlations.

    `needed`: the content of needed_capacity.json by run.
    """
    lines = []
    for kind, title in KINDS.items():
        names = [*next(iter(needed.values()))[kind]] if needed else []
        rows = []
        for run, content in needed.items():
            of_classes = [content[kind][name] for name in names]
            rows.append([f"{run}, visits", *(_shown(visits, one) for one in of_classes)])
            rows.append([f"{run}, lost at one visit", *(_shown(lost, one) for one in of_classes)])
        if rows:
            lines += [
                f"Decoder, by {title}: visits that tokens request, and nats a token that are lost where each makes one visit.",
                "",
                markdown_table(["", *names], rows, numbers=True),
                "",
            ]
    return lines + (_correlations(needed) if needed else [])


def has_tokens(one: Mapping[str, Any]) -> bool:
    """Whether a class has any tokens; the means of one without are null."""
    return one["requested"]["decoder"] is not None


def visits(one: Mapping[str, Any]) -> float:
    """That tokens request in the decoder."""
    return float(one["requested"]["decoder"])


def lost(one: Mapping[str, Any]) -> float:
    """By one visit each in the decoder, nats a token."""
    return float(one["lost"]["decoder: 1"])


def _shown(mean: Callable[[Mapping[str, Any]], float], one: Mapping[str, Any]) -> str:
    return f"{mean(one):.2f}" if has_tokens(one) else "–"


def _correlations(needed: Mapping[str, Any]) -> list[str]:
    rows = []
    for run, content in needed.items():
        classes = [classes.values() for classes in content["both"].values()]
        cells = [(rank, one) for each in classes for rank, one in enumerate(each) if has_tokens(one)]
        directions = [one for one in content["directions"].values() if has_tokens(one)]
        values = [
            spearman([rank for rank, _ in cells], [visits(one) for _, one in cells]),
            _visits_against_losses(directions),
            _visits_against_losses(one for _, one in cells),
        ]
        rows.append([run, *(f"{value:+.2f}" for value in values)])
    head = ["", "rarity and visits", "visits and losses, directions", "visits and losses, cells"]
    return [
        "Spearman's rank correlations in the decoder. A cell: the tokens of a direction in a frequency class.",
        "",
        markdown_table(head, rows, numbers=True),
        "",
    ]


def _visits_against_losses(each: Iterable[Mapping[str, Any]]) -> float:
    pairs = [(visits(one), lost(one)) for one in each]
    return spearman([a for a, _ in pairs], [b for _, b in pairs])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; NaN where all of one side are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
