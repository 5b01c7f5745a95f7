"""Iterators over batches whose number is known only at the end.

fairseq decides by the length of an iterator whether an epoch is over. Where the batches are planned while training goes on,
that length is an estimate, good for a progress bar and no more. These iterators fetch a batch ahead instead.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

from fairseq.data.iterators import CountingIterator, GroupedIterator

from smoe_mt.errors import UserError


class LookaheadBatchIterator(CountingIterator):
    """Counts what it hands out (`n`, from `start`). `len` is the `estimate`; `has_next` is exact.

    `spare`: as many at the end are left out.
    """

    def __init__(self, batches: Iterable[Any], start: int, estimate: int, spare: int = 0) -> None:
        super().__init__(batches, start=start, total=estimate)
        self.total: int = estimate
        self._start = start
        self._spare = spare
        self._group = 1
        self._limit = sys.maxsize
        self._ahead: deque[Any] = deque()
        self._exhausted = False

    def has_next(self) -> bool:
        """Whether there is another; it is fetched to find out."""
        rest_of_group = self._group - (self.n - self._start) % self._group
        return self.n < self._limit and self._fetch(rest_of_group + self._spare)

    def _fetch(self, wanted: int) -> bool:
        while len(self._ahead) < wanted and not self._exhausted:
            try:
                self._ahead.append(next(self._itr))
            except StopIteration:
                self._exhausted = True  # a buffered iterator must not be asked again: it would wait for ever
        return len(self._ahead) >= wanted

    def __next__(self) -> Any:
        if not self.has_next():
            raise StopIteration
        self.n += 1
        return self._ahead.popleft()

    def take(self, n: int) -> LookaheadBatchIterator:
        """End when `n` have been counted."""
        self._limit = min(self._limit, n)
        self.total = min(self.total, n)
        return self

    def only_whole_groups(self, size: int) -> None:
        """Leave out at the end what does not fill a group."""
        self._group = size


class LookaheadGroups(GroupedIterator):
    """fairseq's grouping of batches into updates (--update-freq), which ends when an open-ended iterator does.

    UserError where the whole of an epoch would be left out as a remainder.
    """

    def __init__(self, iterable: Any, chunk_size: int, skip_remainder_batch: bool = False) -> None:
        self._lookahead = iterable if isinstance(iterable, LookaheadBatchIterator) else None
        if self._lookahead is not None and skip_remainder_batch:
            self._lookahead.only_whole_groups(chunk_size)
            skip_remainder_batch = False
            if not self._lookahead.n and not self._lookahead.has_next():
                raise UserError(
                    "optimization.skip_remainder_batch leaves out the whole epoch, in which a rank has no more batches than the "
                    f"{chunk_size} of one update: leave it out, or lower optimization.update_freq (task.tokens_per_update)"
                )
        super().__init__(iterable, chunk_size, skip_remainder_batch)

    def has_next(self) -> bool:
        """Whether there is another group."""
        return bool(super().has_next() if self._lookahead is None else self._lookahead.has_next())
