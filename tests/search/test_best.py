"""The best continuations of a sentence's beams."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.search.beam import rows_for
from smoe_mt.search.best import GROUP, best_of_sentences


@given(
    sentences=st.integers(1, 3),
    beams=st.integers(1, 5),
    vocabulary=st.integers(1, 20 * GROUP),
    count=st.integers(1, 12),
    forbidden=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_are_those_that_sorting_finds(
    sentences: int, beams: int, vocabulary: int, count: int, forbidden: float, seed: int
) -> None:
    torch.manual_seed(seed)
    count = min(count, beams * vocabulary)
    logprobs = torch.rand(sentences, beams, vocabulary)
    logprobs = logprobs.masked_fill(torch.rand(logprobs.shape) < forbidden, -math.inf)
    scores = torch.rand(sentences, beams)
    totals = logprobs + scores[:, :, None]
    values, token, beam = best_of_sentences(logprobs, scores, count)
    places = beam * vocabulary + token
    assert values.equal(totals.flatten(1).topk(count).values)
    assert values.equal(totals.flatten(1).gather(1, places))
    assert all(len(set(row)) == count for row in places.tolist())


@pytest.mark.parametrize("vocabulary", [40 * GROUP, 40 * GROUP + 3])
def test_of_a_sentence_whose_only_entry_is_the_last(vocabulary: int) -> None:
    logprobs = torch.full((1, 2, vocabulary), -math.inf)
    logprobs[0, 1, -1] = 1.0
    values, token, beam = best_of_sentences(logprobs, torch.tensor([[0.0, 2.0]]), 2)
    assert (values[0, 0], token[0, 0], beam[0, 0]) == (3.0, vocabulary - 1, 1)


@given(st.integers(0, 5000))
def test_batches_stay_while_few_sentences_have_ended(sentences: int) -> None:
    assert sentences <= rows_for(sentences) <= sentences + sentences / 8
