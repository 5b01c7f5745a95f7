"""Finds the bias of the capacity dial that gives a mean number of visits, once, before anything is translated.

The text is the beginning of the model's validation text, in all of its directions, read with teacher forcing. The mean is that
over blocks of the means over tokens, padding left out. As the bias is fixed afterwards, a translation does not depend on what
else is translated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from smoe_mt.errors import UserError, setting
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.generation.details import block_means
from smoe_mt.generation.routing_options import MOST_BIAS

SPLIT = "valid"
SENTENCES = 50  # of each direction, at most
MOST = 2000  # of all directions together, but at least one of each
DIGITS = 2  # of a bias
CLOSE = 0.02  # of the mean that was asked for


@dataclass(frozen=True)
class Calibrated:
    """The bias, and the mean of visits that it gave on the validation text."""

    asked: float
    bias: float
    mean: float

    def __str__(self) -> str:
        return f"mean of {self.asked:g} visits: bias={self.bias:g} gives {self.mean:.2f} on {SPLIT}"


class Opens(Protocol):
    """A routing that can be opened."""

    def opened(self) -> AbstractContextManager[None]: ...


def calibrate(loaded: LoadedModel, mean: float, with_bias: Callable[[float], Opens]) -> Calibrated:
    """The bias whose mean of visits is nearest to `mean`, by bisection in steps of 0.01.

    Raises UserError for a mean that no bias gives, and for a model without validation text.
    """
    pairs = _validation_pairs(loaded)

    def measured(bias: float) -> float:
        with with_bias(bias).opened():
            blocks = block_means(loaded.task, loaded.model, *pairs)
        if not blocks:
            raise _no_text(loaded)
        return sum(block.visits for block in blocks.values()) / len(blocks)

    low, high = -MOST_BIAS, MOST_BIAS
    least, most = measured(low), measured(high)
    if not least - CLOSE <= mean <= most + CLOSE:
        raise UserError(
            f"{loaded.checkpoint}: no bias gives a mean of {mean:g} visits; on its {SPLIT} text it is {least:.2f} to {most:.2f}"
        )
    found = {low: least, high: most}
    while high - low > 10**-DIGITS:
        middle = round((low + high) / 2, DIGITS)
        if middle in (low, high):
            break
        found[middle] = measured(middle)
        low, high = (middle, high) if found[middle] < mean else (low, middle)
    best = min(found, key=lambda bias: (abs(found[bias] - mean), abs(bias)))
    return Calibrated(mean, best, found[best])


def _validation_pairs(loaded: LoadedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sources with tag and </s>, and references without it. UserError where there are none."""
    task = loaded.task
    sources: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    directions = [name for name in task.directions if task.folder.has(SPLIT, name)]
    count = max(1, min(SENTENCES, MOST // max(len(directions), 1)))
    for direction in directions:
        lines, references = (
            task.folder.references(SPLIT, direction, side=side)[:count] for side in ("source", "target")
        )
        sources += [task.encode(line, direction.split("-")[1]) for line in lines]
        targets += [task.encode_prefix(line) for line in references]
    if not sources:
        raise _no_text(loaded)
    return sources, targets


def _no_text(loaded: LoadedModel) -> UserError:
    return UserError(
        f"{loaded.checkpoint}: a mean of visits is measured on text of split {SPLIT}, and {loaded.task.folder.path} has none that "
        f"fits the model; give the bias itself ({setting('capacity')} bias=B)"
    )
