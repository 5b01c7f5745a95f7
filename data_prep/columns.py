"""Columns of numbers on disk, one a row of text, written and read in blocks so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 18
PARTITION = 1 << 21


def read_blocks(path: Path, dtype: Any, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Consecutive blocks dtype[at most size] of a file of raw numbers."""
    with open(path, "rb") as column:
        while len(block := np.fromfile(column, dtype=dtype, count=size)):
            yield block


def evenly_spaced(path: Path, dtype: Any, count: int, most: int) -> np.ndarray:
    """Every k-th of ``count`` numbers, k the smallest with which there are at most ``most``: dtype[at most ``most``]."""
    step = max(1, -(-count // most))
    taken, start = [np.empty(0, dtype=dtype)], 0
    for block in read_blocks(path, dtype):
        taken.append(block[-start % step :: step])
        start += len(block)
    return np.concatenate(taken)


def first_occurrences(path: Path, among: np.ndarray) -> np.ndarray:
    """Rows bool[N] of those ``among`` (bool[N]) whose hash, in a file of uint64[N], no earlier one of them has.

    The hashes are looked at by partitions of their values, so memory is a byte a row and one partition.
    """
    partitions = 1 + len(among) // PARTITION
    passed = np.zeros(len(among), dtype=bool)
    for partition in range(partitions):
        rows, hashes, start = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)], 0
        for block in read_blocks(path, np.uint64):
            here = np.flatnonzero((block % np.uint64(partitions) == partition) & among[start : start + len(block)])
            rows.append(here + start)
            hashes.append(block[here])
            start += len(block)
        _, first = np.unique(np.concatenate(hashes), return_index=True)
        passed[np.concatenate(rows)[first]] = True
    return passed
