"""The best entries of long rows."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.search.beam import rows_for
from smoe_mt.search.best import GROUP, best_of_rows


@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 30 * GROUP),
    count=st.integers(1, 12),
    forbidden=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_are_those_that_sorting_finds(rows: int, length: int, count: int, forbidden: float, seed: int) -> None:
    torch.manual_seed(seed)
    count = min(count, length)
    scores = torch.rand(rows, length).masked_fill(torch.rand(rows, length) < forbidden, -math.inf)
    values, places = best_of_rows(scores, count)
    assert values.equal(scores.topk(count).values)
    assert values.equal(scores.gather(1, places))
    assert all(len(set(row)) == count for row in places.tolist())


def test_of_a_row_whose_only_entry_is_the_last() -> None:
    scores = torch.full((1, 40 * GROUP + 3), -math.inf)
    scores[0, -1] = 1.0
    values, places = best_of_rows(scores, 2)
    assert (values[0, 0], places[0, 0]) == (1.0, 40 * GROUP + 2)


@given(st.integers(0, 5000))
def test_batches_stay_while_few_sentences_have_ended(sentences: int) -> None:
    assert sentences <= rows_for(sentences) <= sentences + sentences / 8
