"""How many sentences of each direction an epoch draws, and which.

Temperature sampling: direction d of n_d sentences gets a share p_d ~ n_d^(1/T) of the epoch's N draws. T = 1 is
proportional to size, a large T nearly uniform.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from smoe_mt.tasks.permutation import permute

# Keep the random numbers of different purposes apart.
ORDER_STREAM, EPOCH_STREAM, WINDOW_STREAM, MIXING_STREAM = 1, 2, 3, 4


def shares(sizes: Sequence[int], temperature: float) -> np.ndarray:
    """p_d of each direction: float64[directions], sums to 1. A direction without text gets 0."""
    n = np.asarray(sizes, dtype=np.float64)
    # Scaled by the largest first: n^(1/T) of a very small T would overflow.
    weights = np.where(n > 0, (n / n.max()) ** (1.0 / temperature), 0.0)
    return weights / weights.sum()


def draws_per_direction(sizes: Sequence[int], temperature: float, total: int) -> np.ndarray:
    """int64[directions] that sum to `total`: total * p_d, rounded by largest remainder (first direction on ties)."""
    exact = shares(sizes, temperature) * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    remainders = exact - counts
    remainders[np.asarray(sizes) == 0] = -1.0
    counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return counts


def window_bounds(
    counts: np.ndarray, windows: int, window: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of its `counts` draws each direction has in a window: first and past-the-last, int64[directions] each.

    Every window has the directions in the same proportions, within one draw each. Where a direction has fewer draws than there
    are windows, chance decides which of them get one.
    """
    phases = np.random.default_rng((seed, WINDOW_STREAM, epoch)).integers(windows, size=len(counts))
    return (counts * window + phases) // windows, (counts * (window + 1) + phases) // windows


def draw_lines(
    direction: str, size: int, count: int, seed: int, epoch: int, first: int = 0, last: int | None = None
) -> np.ndarray:
    """Of the `count` sentences (of `size`) that a direction contributes to an epoch, draws `first` to `last`: int64[draws].

    A direction has one random order of its text, and each epoch goes on in it where the epoch before stopped, around and
    around. So nothing is drawn twice before all has been drawn once, within an epoch and across epochs, and any part of any
    epoch can be computed on its own. Within an epoch the draws are in random order. `epoch` counts from 1.
    """
    name = zlib.crc32(direction.encode())
    drawn = permute(np.arange(first, count if last is None else last), count, (seed, EPOCH_STREAM, name, epoch))
    return permute(((epoch - 1) * count + drawn) % size, size, (seed, ORDER_STREAM, name))


def window_rng(seed: int, epoch: int, window: int) -> np.random.Generator:
    """What mixes the directions of a window."""
    return np.random.default_rng((seed, MIXING_STREAM, epoch, window))
