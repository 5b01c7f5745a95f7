"""Few shapes for all batches of a training: rows x source length x target length, chosen so that little of them is padding.

A GPU that has seen a shape before allocates nothing for it, and its step can be replayed as a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from smoe_mt.tasks.draws import Draws

#: Lengths of a side that are looked at. They part the text's tokens evenly: more of them would save next to nothing.
CANDIDATES = 64
SWEEPS = 3  # in which each shape is chosen again, beside the others

#: How often a sentence is drawn, source lengths int[n], target lengths int[n]; several such parts make a text.
Lengths = Iterator[tuple[float, np.ndarray, np.ndarray]]


class BatchShape(NamedTuple):
    """What a batch is padded to."""

    rows: int
    source: int
    target: int

    @property
    def width(self) -> int:
        """Positions of a row."""
        return self.source + self.target

    def holds(self, rows: int, source: int, target: int) -> bool:
        """Whether a batch of this size can be padded to it."""
        return rows <= self.rows and source <= self.source and target <= self.target

    def __str__(self) -> str:
        return "x".join(map(str, self))


def smallest(shapes: Iterable[BatchShape], rows: int, source: int, target: int) -> BatchShape | None:
    """The shape of fewest positions that holds a batch; None where none does."""
    fitting = [shape for shape in shapes if shape.holds(rows, source, target)]
    return min(fitting, key=lambda shape: (shape.rows * shape.width, shape)) if fitting else None


# --- the choice ---


def choose_shapes(
    lengths: Callable[[], Lengths], longest: tuple[int, int], most: int, rows_of: Callable[[int], int]
) -> tuple[BatchShape, ...]:
    """At most `most` shapes for a text, narrowest first: each sentence in the narrowest that it fits, few positions are padding.

    `longest`: source and target beyond which a sentence is not trained on; `rows_of`: rows of a batch, by its longer side.
    Shapes are added one by one, each time the one that saves the most; then each is chosen again, beside all others.
    """
    edges, weights_IJ = _table(lengths, longest)
    if not weights_IJ.size:
        return ()
    widths_IJ = edges[0][:, None] + edges[1][None]
    corner = (len(edges[0]) - 1, len(edges[1]) - 1)  # holds all
    chosen = [corner]
    while len(chosen) < most and (found := _best(weights_IJ, widths_IJ, chosen)) is not None:
        chosen.append(found)
    for _ in range(SWEEPS):
        before = list(chosen)
        for place in range(1, len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            chosen[place] = _best(weights_IJ, widths_IJ, others) or chosen[place]
        if chosen == before:
            break
    sides = {(int(edges[0][i]), int(edges[1][j])) for i, j in chosen}
    shapes = [BatchShape(rows_of(max(side)), *side) for side in sides]
    return tuple(sorted(shapes, key=lambda shape: (shape.width, shape)))


def _table(lengths: Callable[[], Lengths], longest: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Candidate lengths of either side, int64[I] and int64[J], and how many draws end up at each pair of them, float64[I, J]."""
    counts: list[np.ndarray] = [np.zeros(1), np.zeros(1)]
    for weight, *sides in _fitting(lengths(), longest):
        for side, values in enumerate(sides):
            found = weight * np.bincount(values, minlength=len(counts[side]))
            counts[side] = found + np.pad(counts[side], (0, len(found) - len(counts[side])))
    edges = [_candidates(one) for one in counts]
    weights = np.zeros(len(edges[0]) * len(edges[1]))
    for weight, *sides in _fitting(lengths(), longest):
        i, j = (np.searchsorted(edge, values) for edge, values in zip(edges, sides))
        weights += weight * np.bincount(i * len(edges[1]) + j, minlength=len(weights))
    return edges, weights.reshape(len(edges[0]), len(edges[1]))


def _fitting(parts: Lengths, longest: tuple[int, int]) -> Lengths:
    for weight, source, target in parts:
        fits = (source <= longest[0]) & (target <= longest[1])
        if fits.any():
            yield weight, source[fits], target[fits]


def _candidates(counts: np.ndarray) -> np.ndarray:
    """Lengths that part the tokens evenly, the longest among them; of counts by length."""
    present = np.flatnonzero(counts)
    if len(present) <= CANDIDATES:
        return present
    tokens = np.cumsum(counts[present] * present)
    parts = np.searchsorted(tokens, tokens[-1] * np.arange(1, CANDIDATES) / CANDIDATES)
    return np.unique(np.append(present[parts], present[-1]))


def _best(weights_IJ: np.ndarray, widths_IJ: np.ndarray, chosen: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The shape that saves the most positions beside those that were chosen; None where none saves any."""
    now_IJ = np.full(widths_IJ.shape, np.iinfo(np.int64).max)
    for i, j in chosen:
        now_IJ[: i + 1, : j + 1] = np.minimum(now_IJ[: i + 1, : j + 1], widths_IJ[i, j])
    up_to_JJ = np.tri(widths_IJ.shape[1])  # [b, j]: target length j fits into b
    best, found = 0.0, None
    for i in range(len(widths_IJ)):
        saved_bij = np.maximum(now_IJ[None, : i + 1] - widths_IJ[i, :, None, None], 0)
        saved_b = np.einsum("bij,ij,bj->b", saved_bij, weights_IJ[: i + 1], up_to_JJ)
        j = int(saved_b.argmax())
        if saved_b[j] > best:
            best, found = float(saved_b[j]), (i, j)
    return found


# --- batches of these shapes ---


def pack_into(draws: Draws, shapes: Sequence[BatchShape]) -> list[np.ndarray]:
    """Batches of sentences that all fit one of the shapes (narrowest first), in the order of the shapes; every draw is in one.

    A shape's last sentences that fill no batch go to a wider shape where they add fewer positions than a batch of their own.
    """
    parts = _by_shape(draws, shapes)
    batches: list[np.ndarray] = []
    for number, shape in enumerate(shapes):
        members = np.concatenate(parts[number])
        whole = len(members) - len(members) % shape.rows
        batches += [members[first : first + shape.rows] for first in range(0, whole, shape.rows)]
        rest = members[whole:]
        if len(rest):
            wider = _wider(shapes, number, draws[rest])
            if wider is None:
                batches.append(rest)
            else:
                parts[wider].insert(0, rest)
    return [draws.indices[batch] for batch in batches]


def _by_shape(draws: Draws, shapes: Sequence[BatchShape]) -> list[list[np.ndarray]]:
    free = np.ones(len(draws), dtype=bool)
    parts = []
    for shape in shapes:
        mine = free & draws.fitting(shape.source, shape.target)
        free &= ~mine
        parts.append([np.flatnonzero(mine)])
    assert not free.any(), "a sentence is longer than all shapes"
    return parts


def _wider(shapes: Sequence[BatchShape], number: int, rest: Draws) -> int | None:
    """The narrowest later shape that the rest fits; None where the rest costs less as a batch of its own."""
    source, target = int(rest.source_lengths.max()), int(rest.target_lengths.max())
    later = (place for place in range(number + 1, len(shapes)) if shapes[place].holds(0, source, target))
    place = next(later, None)
    own = shapes[number].rows * shapes[number].width
    return place if place is not None and len(rest) * shapes[place].width < own else None


def padding_share(draws: Draws, batches: Sequence[np.ndarray], shapes: Sequence[BatchShape] = ()) -> float:
    """Share of the positions of these batches that hold padding; without shapes, each is padded to its longest sentences."""
    order = np.argsort(draws.indices, kind="stable")
    positions = 0
    for batch in batches:
        found = order[np.searchsorted(draws.indices, batch, sorter=order)]
        source, target = int(draws.source_lengths[found].max()), int(draws.target_lengths[found].max())
        shape = smallest(shapes, len(batch), source, target) or BatchShape(len(batch), source, target)
        positions += shape.rows * shape.width
    tokens = int(draws.source_lengths.sum(dtype=np.int64) + draws.target_lengths.sum(dtype=np.int64))
    return 1 - tokens / positions
