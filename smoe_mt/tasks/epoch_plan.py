"""The batches of one epoch, planned window by window while they are consumed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where in an epoch to start planning."""

    window: int = 0
    #: Batches in the windows before it.
    before: int = 0


class EpochPlan:
    """Batches of an epoch from `place` on, as one sequence over its windows.

    `batches_of`: the ordered batches of a window, given its place. Only the window in use is held; of the others, the plan
    remembers how many batches they had.
    """

    def __init__(self, batches_of: Callable[[Place], Sequence[np.ndarray]], windows: int, place: Place) -> None:
        self._batches_of = batches_of
        self._windows = windows
        self._first = place.window
        #: ends[i]: batches in the epoch before window first + i.
        self._ends = [place.before]
        self._window: Sequence[np.ndarray] = ()
        self._used = 0  # of the window in use
        self._next_window()

    def _next_window(self) -> bool:
        place = Place(self._first + len(self._ends) - 1, self._ends[-1])
        if place.window >= self._windows:
            return False
        self._window, self._used = self._batches_of(place), 0
        self._ends.append(place.before + len(self._window))
        return True

    def __iter__(self) -> Iterator[np.ndarray]:
        while self._used < len(self._window) or self._next_window():
            # A window may be empty; then the next one is asked for.
            while self._used < len(self._window):
                self._used += 1
                yield self._window[self._used - 1]

    def skip_to(self, consumed: int) -> bool:
        """Leave out the epoch's first `consumed` batches. Whether any is left."""
        while consumed >= self._ends[-1] and self._next_window():
            pass
        self._used = max(0, consumed - self._ends[-2]) if len(self._ends) > 1 else 0
        return consumed < self._ends[-1]

    @property
    def planned(self) -> int:
        """Batches in the epoch up to the end of the window in use."""
        return self._ends[-1]

    @property
    def estimate(self) -> int:
        """Batches in the whole epoch, as if the windows to come were as large as those seen. Exact in the last window."""
        seen = len(self._ends) - 1
        to_come = self._windows - self._first - seen
        return self._ends[-1] + (to_come * (self._ends[-1] - self._ends[0]) // seen if seen else 0)

    def place_of(self, consumed: int) -> Place:
        """The window of the last of `consumed` batches."""
        part = max(1, bisect_left(self._ends, consumed)) - 1
        return Place(self._first + part, self._ends[part])
