"""How many sentences of each direction an epoch draws, and which.

Temperature sampling: direction d of n_d sentences gets a share p_d ~ n_d^(1/T) of the epoch's N draws. T = 1 is
proportional to size, a large T nearly uniform.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

ORDER_STREAM, EPOCH_STREAM = 1, 2  # keeps the random numbers of the two purposes apart


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


def draw_lines(direction: str, size: int, count: int, seed: int, epoch: int) -> np.ndarray:
    """The `count` sentences (of `size`) that a direction contributes to an epoch: int64[count], in no useful order.

    A direction has one random order of its text, and each epoch goes on in it where the epoch before stopped, around and
    around. So nothing is drawn twice before all has been drawn once, within an epoch and across epochs, and any epoch can be
    computed on its own. `epoch` counts from 1.
    """
    start = (epoch - 1) * count % size
    if start == 0 and count % size == 0:
        return np.tile(np.arange(size, dtype=np.int64), count // size)
    order = np.random.default_rng((seed, ORDER_STREAM, zlib.crc32(direction.encode()))).permutation(size)
    rounds = -(-(start + count) // size)
    return np.tile(order, rounds)[start : start + count] if rounds > 1 else order[start : start + count]


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The source of everything that is redrawn in each epoch."""
    return np.random.default_rng((seed, EPOCH_STREAM, epoch))
