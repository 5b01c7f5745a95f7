"""Batches hold every sentence once and no more tokens than asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.generation.batching import batch_by_tokens


@given(st.lists(st.integers(1, 60)), st.integers(1, 200))
def test_every_sentence_is_in_one_batch(lengths: list[int], max_tokens: int) -> None:
    batches = batch_by_tokens(lengths, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 60)), st.integers(1, 200))
def test_no_batch_of_several_sentences_is_over_the_limit(lengths: list[int], max_tokens: int) -> None:
    for batch in batch_by_tokens(lengths, max_tokens):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


def test_longest_first_and_equal_lengths_in_their_order() -> None:
    assert batch_by_tokens([3, 5, 3, 5, 1], 10) == [[1, 3], [0, 2, 4]]
