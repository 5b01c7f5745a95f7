"""Progress of a long job."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(total: int, title: str, unit: str = "sent") -> tqdm:
    """A bar on stderr; in a log, where each state is a line of its own, it speaks rarely."""
    quick = sys.stderr.isatty()
    return tqdm(total=total, desc=title, unit=unit, file=sys.stderr, mininterval=0.2 if quick else 15)
