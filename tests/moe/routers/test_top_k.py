"""The k best experts: many of them by one sort, few by repeated argmax, with the same result."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_mt.moe.routers.top_k import MOST_PASSES, choose


@given(seed=st.integers(0, 10_000), experts=st.integers(1, 12), values=st.integers(1, 4), tokens=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_a_sort_gives_what_repeated_argmax_gives_with_ties_too(
    seed: int, experts: int, values: int, tokens: int
) -> None:
    """Few different values, so that there are ties: the lowest number comes first."""
    drawn = torch.randint(values, (tokens, experts), generator=torch.Generator().manual_seed(seed))
    probs_TE = drawn.float() / values
    want = [sorted(range(experts), key=lambda e: (-row[e], e)) for row in drawn.tolist()]
    for top_k in {1, min(MOST_PASSES, experts), experts}:
        assert choose(probs_TE, top_k).tolist() == [row[:top_k] for row in want]
