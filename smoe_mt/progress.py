"""Progress of a long job."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(total: int, title: str, *, unit: str = "sent", shown: bool = True) -> tqdm:
    """A bar on stderr; in a log, where each state is a line of its own, it speaks rarely."""
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=title, unit=unit, file=sys.stderr, mininterval=interval, disable=not shown)


def bytes_bar(total: int, title: str) -> tqdm:
    """A bar for those who wait at a terminal while `total` bytes are read; none where it takes less than two seconds."""
    return tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None, leave=False, delay=2.0)
