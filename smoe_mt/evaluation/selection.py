"""Which directions of a split to look at and with which metrics, and the raw text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, METRICS, Corpus, Metric
from smoe_mt.language_codes import direction_name

ALL = "all"


def choose_directions(task: Any, split: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The directions of the model that `split` has text for, or those of them that are `wanted` (with spaces or commas).

    Raises UserError for an unknown split or direction, naming the known ones, and for a direction without text.
    """
    folder = task.folder
    folder.check_split(split)
    there = [direction for direction in task.directions if direction in directions_with_text(task, split)]
    if not wanted:
        return tuple(there)
    chosen = direction_names(wanted)
    if not chosen:
        raise UserError(f"no direction is named; the model knows {', '.join(task.directions)}")
    for direction in chosen:
        if direction not in task.directions:
            raise UserError(f"unknown direction {direction!r}: the model knows {', '.join(task.directions)}")
        if direction not in there:
            raise UserError(f"{folder.path}: split {split!r} has no text for {direction}; it has {', '.join(there)}")
    return tuple(dict.fromkeys(chosen))


def directions_with_text(task: Any, split: str) -> set[str]:
    """The directions of the model that `split` has text for."""
    return {direction for direction in task.directions if task.folder.has(split, direction)}


def read_text(task: Any, split: str, direction: str) -> Corpus:
    """Sources and references of a direction as a corpus without hypotheses."""
    sources = task.folder.references(split, direction, side="source")
    references = task.folder.references(split, direction, side="target")
    if len(sources) != len(references):
        raise UserError(
            f"{task.folder.path}: {split} of {direction} has {len(sources)} sources and {len(references)} references; "
            "prepare the data again"
        )
    if not references:
        raise UserError(f"{task.folder.path}: {split} of {direction} is empty")
    return Corpus(direction, tuple(sources), (), tuple(references))


def choose_metrics(wanted: Sequence[str]) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """The metrics with these names (with spaces or commas), or for `all` those that can be computed here; the default ones
    where none is named. And of `all` those that cannot, with the reason.

    Raises UserError for an unknown name, and for a named metric that cannot be computed.
    """
    names = split_names(wanted)
    known = {metric.name: metric for metric in METRICS}
    for name in names:
        if name not in known and name != ALL:
            raise UserError(f"unknown metric {name!r}: there are {', '.join(known)}, and {ALL}")
    if not names:
        return DEFAULT_METRICS, {}
    chosen, left_out = [], {}
    for metric in METRICS:
        if metric.name not in names and ALL not in names:
            continue
        try:
            metric.check()
            chosen.append(metric)
        except UserError as error:
            if metric.name in names:
                raise
            left_out[metric.name] = str(error)
    return tuple(chosen), left_out


def direction_names(texts: Sequence[str]) -> list[str]:
    """The directions in arguments, as data folders have them."""
    return [direction_name(name) for name in split_names(texts)]


def split_names(texts: Sequence[str]) -> list[str]:
    """The names in arguments that hold one or several each, with spaces or commas."""
    return [name for text in texts for name in re.split(r"[,\s]+", text) if name]
