"""Requested against needed capacity, of the runs of a study that have strata."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smoe_mt.study.plan import run_name
from smoe_mt.text_table import markdown_table

KINDS = {"directions": "direction", "frequency_ranks": "frequency rank of the target token"}


def capacity_tables(content: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: visits and losses in the decoder by direction and by frequency class, their rank correlations, and where
    systems gain; none where no system has strata.

    `content`: that of results.json; of its parts ``needed_capacity`` (by run, the content of needed_capacity.json),
    ``training_pairs`` (by direction; may lack some), ``seeds``, ``scores`` and ``comparisons``.
    """
    needed = content["needed_capacity"]
    if not needed:
        return []
    lines = []
    for kind, title in KINDS.items():
        names = [*next(iter(needed.values()))[kind]]
        rows = [[name, *(_cell(one[kind][name]) for one in needed.values())] for name in names]
        lines += [
            f"Decoder, by {title}: visits that tokens request / nats a token that are lost where each makes one visit.",
            "",
            markdown_table(["", *needed], rows, numbers=True),
            "",
        ]
    return lines + _correlations(needed, content["training_pairs"]) + _gains(content)


def has_tokens(one: Mapping[str, Any]) -> bool:
    """Whether a class has any tokens; the means of one without are null."""
    return one["requested"]["decoder"] is not None


def visits(one: Mapping[str, Any]) -> float:
    """That tokens request in the decoder."""
    return float(one["requested"]["decoder"])


def lost(one: Mapping[str, Any]) -> float:
    """By one visit each in the decoder, nats a token."""
    return float(one["lost"]["decoder: 1"])


def _cell(one: Mapping[str, Any]) -> str:
    return f"{visits(one):.2f} / {lost(one):.2f}" if has_tokens(one) else "–"


def _correlations(needed: Mapping[str, Any], pairs: Mapping[str, int]) -> list[str]:
    rows = []
    for run, content in needed.items():
        classes = [classes.values() for classes in content["both"].values()]
        cells = [(rank, one) for each in classes for rank, one in enumerate(each) if has_tokens(one)]
        directions = {name: one for name, one in content["directions"].items() if has_tokens(one)}
        values = [
            _of_points((rank, visits(one)) for rank, one in cells),
            _of_points((pairs[name], visits(one)) for name, one in directions.items() if name in pairs),
            _of_points((visits(one), lost(one)) for one in directions.values()),
            _of_points((visits(one), lost(one)) for _, one in cells),
        ]
        rows.append([run, *map(_signed, values)])
    head = [
        "",
        "rarity and visits",
        "training pairs and visits",
        "visits and losses, directions",
        "visits and losses, cells",
    ]
    return [
        "Spearman's rank correlations in the decoder. A cell: the tokens of a direction in a frequency class.",
        "",
        markdown_table(head, rows, numbers=True),
        "",
    ]


@dataclass(frozen=True)
class Gains:
    """What one run of a system with strata gains over a baseline in each direction, and what its tokens request there."""

    system: str
    seed: int
    baseline: str
    directions: tuple[str, ...]
    chrf: tuple[float, ...]
    visits: tuple[float, ...]
    lost: tuple[float, ...]

    @property
    def run(self) -> str:
        """Its name."""
        return run_name(self.system, self.seed)


def gains_by_direction(content: Mapping[str, Any]) -> list[Gains]:
    """Of each comparison whose system has strata and each seed; `content` as in `capacity_tables`."""
    found = []
    for pair in content["comparisons"]:
        system, baseline = (content["scores"]["chrf"][name] for name in (pair["system"], pair["baseline"]))
        for place, seed in enumerate(content["seeds"]):
            run = run_name(pair["system"], seed)
            classes = content["needed_capacity"].get(run, {}).get("directions", {})
            names = tuple(name for name, one in classes.items() if has_tokens(one) and name in system)
            if names:
                gains = [system[name]["by_seed"][place] - baseline[name]["by_seed"][place] for name in names]
                each = [classes[name] for name in names]
                capacity = tuple(map(visits, each)), tuple(map(lost, each))
                found.append(Gains(pair["system"], seed, pair["baseline"], names, tuple(gains), *capacity))
    return found


def _gains(content: Mapping[str, Any]) -> list[str]:
    pairs = content["training_pairs"]
    rows = []
    for one in gains_by_direction(content):
        values = [
            spearman(one.visits, one.chrf),
            spearman(one.lost, one.chrf),
            _of_points((pairs[name], gain) for name, gain in zip(one.directions, one.chrf) if name in pairs),
        ]
        rows.append([f"{one.run} over {one.baseline}", *map(_signed, values)])
    head = ["", "visits", "lost at one visit", "training pairs"]
    return [
        "Where strata gain: Spearman's rank correlations, over directions, of the gain in chrF++ with",
        "",
        markdown_table(head, rows, numbers=True),
        "",
    ]


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _of_points(points: Iterable[tuple[float, float]]) -> float:
    x_and_y = [*points]
    return spearman([x for x, _ in x_and_y], [y for _, y in x_and_y])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; NaN where all of one side are equal, or none is given."""
    if not len(x):
        return math.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
