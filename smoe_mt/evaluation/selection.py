"""Which directions of a split to look at, and their raw text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus


def choose_directions(task: Any, split: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The directions of the model that `split` has text for, or those of them that are `wanted` (with spaces or commas).

    Raises UserError for an unknown split or direction, naming the known ones, and for a direction without text.
    """
    folder = task.folder
    folder.check_split(split)
    there = tuple(direction for direction in task.directions if folder.has(split, direction))
    if not wanted:
        return there
    chosen = [name for text in wanted for name in re.split(r"[,\s]+", text) if name]
    for direction in chosen:
        if direction not in task.directions:
            raise UserError(f"unknown direction {direction!r}: the model knows {', '.join(task.directions)}")
        if direction not in there:
            raise UserError(f"{folder.path}: split {split!r} has no text for {direction}; it has {', '.join(there)}")
    return tuple(dict.fromkeys(chosen))


def read_text(task: Any, split: str, direction: str, limit: int | None) -> Corpus:
    """Sources and references of a direction, the first `limit` of them, as a corpus without hypotheses."""
    sources = task.folder.references(split, direction, side="source")[:limit]
    references = task.folder.references(split, direction, side="target")[:limit]
    if len(sources) != len(references):
        raise UserError(
            f"{task.folder.path}: {split} of {direction} has {len(sources)} sources and {len(references)} references; "
            "prepare the data again"
        )
    if not references:
        raise UserError(f"{task.folder.path}: {split} of {direction} is empty")
    return Corpus(direction, tuple(sources), (), tuple(references))
