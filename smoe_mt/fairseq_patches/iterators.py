"""fairseq groups batches into updates by `LookaheadGroups`."""

from __future__ import annotations

from typing import Any

from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.tasks.lookahead import LookaheadGroups


def groups(_original: Any) -> Any:
    """The class, which is fairseq's own for any other iterator."""
    return LookaheadGroups


PATCHES = (
    Patch(
        "fairseq.data.iterators.GroupedIterator",
        groups,
        "the number of batches of an epoch is an estimate until it ends",
        ("iterable", "chunk_size", "skip_remainder_batch"),
    ),
)
