"""Random orders of any length that take no memory: place i of the order is computed when it is asked for.

A Feistel network with modular addition: i is split into a row and a column of a grid of about sqrt(n) x sqrt(n) places, and in
turn each of the two is shifted by a hash of the other. Every round can be undone, so the whole is a bijection of the grid.
The grid has a few places more than n; who lands on one of them walks on until back inside ("cycle walking", Black and Rogaway
2002, Ciphers with arbitrary finite domains), which keeps it a bijection.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

ROUNDS = 6
# The finaliser of splitmix64 (Steele, Lea, Flood 2014).
FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def permute(places: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """int64[n] from 0 to size - 1 -> int64[n] of the same range: a bijection, another one for each `key` (ints >= 0)."""
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
    rows = isqrt(size - 1) + 1
    columns = -(-size // rows)
    result = _shuffled(places.astype(np.uint64), np.uint64(rows), np.uint64(columns), keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _shuffled(result[outside], np.uint64(rows), np.uint64(columns), keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _shuffled(places: np.ndarray, rows: np.uint64, columns: np.uint64, keys: np.ndarray) -> np.ndarray:
    """uint64[n] below rows x columns, permuted."""
    row, column = np.divmod(places, columns)
    for number, key in enumerate(keys):
        if number % 2:
            row = (row + _hashed(column, key) % rows) % rows
        else:
            column = (column + _hashed(row, key) % columns) % columns
    return row * columns + column


def _hashed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """uint64[n], random and independent of each other for all that one can tell."""
    values = values ^ key
    for shift, factor in zip(SHIFTS, FACTORS):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> SHIFTS[-1])
