"""Batches of few shapes: what they hold, how they are chosen, and that they do not depend on the ranks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.tasks.collate import Sentence, Special, collate
from smoe_mt.tasks.draws import Draws
from smoe_mt.tasks.shapes import BatchShape, choose_shapes, pack_into, padding_share, smallest

MAX_TOKENS = 200
pairs = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=300)


def draws_of(lengths: list[tuple[int, int]]) -> Draws:
    source, target = np.array(lengths, dtype=np.int32).T
    return Draws(np.arange(len(lengths), dtype=np.int64), source, target)


def chosen(lengths: list[tuple[int, int]], most: int, weights: tuple[float, ...] = (1.0,)) -> tuple[BatchShape, ...]:
    """Shapes for a text in as many parts as there are weights."""
    draws = draws_of(lengths)

    def parts() -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        for number, weight in enumerate(weights):
            part = slice(number, None, len(weights))
            yield weight, draws.source_lengths[part], draws.target_lengths[part]

    return choose_shapes(parts, (30, 30), most, lambda longest: MAX_TOKENS // longest)


@given(pairs, st.integers(1, 12))
def test_every_draw_is_in_one_batch_that_a_shape_holds(lengths: list[tuple[int, int]], most: int) -> None:
    shapes = chosen(lengths, most)
    assert 1 <= len(shapes) <= most
    assert all(shape.rows * max(shape.source, shape.target) <= MAX_TOKENS for shape in shapes)
    batches = pack_into(draws_of(lengths), shapes)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        sides = (max(lengths[index][side] for index in batch) for side in (0, 1))
        assert smallest(shapes, len(batch), *sides) is not None


@given(pairs, st.integers(1, 8))
def test_more_shapes_leave_less_padding_in_rows(lengths: list[tuple[int, int]], most: int) -> None:
    def positions(shapes: tuple[BatchShape, ...]) -> int:
        return sum(min(shape.width for shape in shapes if shape.holds(1, *pair)) for pair in lengths)

    assert positions(chosen(lengths, most + 4)) <= positions(chosen(lengths, most))


def test_shapes_are_where_the_text_is() -> None:
    text = [(5, 6)] * 100 + [(20, 10)] * 50 + [(30, 30)]
    assert chosen(text, 8) == ((33, 5, 6), (10, 20, 10), (6, 30, 30))
    assert chosen(text, 2)[-1] == (6, 30, 30)


def test_a_direction_that_is_drawn_more_often_counts_for_more() -> None:
    text = [(4, 4), (12, 12)] * 50 + [(30, 30)] * 2
    assert chosen(text, 2, (100.0, 1.0))[0] == (50, 4, 4)
    assert chosen(text, 2, (1.0, 100.0))[0] == (16, 12, 12)


def test_few_sentences_that_are_left_go_with_longer_ones() -> None:
    shapes = (BatchShape(10, 5, 5), BatchShape(5, 10, 10))
    batches = pack_into(draws_of([(5, 5)] * 12 + [(10, 10)] * 3), shapes)
    assert [len(batch) for batch in batches] == [10, 5]
    assert padding_share(draws_of([(5, 5)] * 12 + [(10, 10)] * 3), batches, shapes) == pytest.approx(0.1)
    alone = pack_into(draws_of([(5, 5)] * 19), shapes)
    assert [len(batch) for batch in alone] == [10, 9]


def test_a_batch_is_padded_to_the_smallest_shape_that_holds_it() -> None:
    special = Special(pad=1, eos=2)
    sentences = [Sentence(i, 1, 9, np.array([5, 6, 2]), np.array([7, 2])) for i in range(2)]
    plain = collate(sentences, special)
    sample = collate(sentences, special, [BatchShape(9, 9, 9), BatchShape(3, 5, 4), BatchShape(3, 3, 4)])
    assert sample["target"].shape == (3, 4) and sample["net_input"]["src_tokens"].shape == (3, 5)
    for name in ("src_tokens", "prev_output_tokens"):
        part = plain["net_input"][name]
        assert torch.equal(sample["net_input"][name][:2, : part.size(1)], part)
        assert (sample["net_input"][name] != 1).sum() == (part != 1).sum()
    assert sample["net_input"]["src_lengths"].tolist() == [4, 4, 0] and sample["direction"].tolist() == [1, 1, 0]
    assert (sample["ntokens"], sample["nsentences"], sample["id"].tolist()) == (4, 2, [0, 1])
    assert collate(sentences, special, [BatchShape(1, 9, 9)])["target"].shape == (2, 2)


def iterator(make_task: Any, rank: int = 0, ranks: int = 1, **options: Any) -> Any:
    task = make_task(batch_shapes=4, sampling_temperature=2.0)
    task.load_dataset("train")
    settings = {"max_tokens": 100, "max_positions": (1024, 1024), "seed": 1, "grouped_shuffling": False, **options}
    return task.get_batch_iterator(task.dataset("train"), num_shards=ranks, shard_id=rank, **settings)


def test_a_training_has_at_most_so_many_shapes(make_task: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = [
            (*batch["net_input"]["src_tokens"].shape, batch["target"].size(1))
            for batch in iterator(make_task).next_epoch_itr()
        ]
    assert 1 < len(set(found)) <= 4 < len(found)
    (line,) = [text for text in caplog.messages if "shapes" in text]
    assert all("x".join(map(str, shape)) in line for shape in found) and "of their positions are padding" in line


def test_ranks_share_out_the_same_batches(make_task: Any) -> None:
    alone = [batch["id"].tolist() for batch in iterator(make_task).next_epoch_itr()]
    ranks = [
        [batch["id"].tolist() if batch else [] for batch in iterator(make_task, rank, 2).next_epoch_itr()]
        for rank in range(2)
    ]
    assert [batch for step in itertools.zip_longest(*ranks) for batch in step if batch] == alone


def test_evaluation_pads_to_the_longest_sentence(make_task: Any) -> None:
    task = make_task(batch_shapes=4)
    task.load_dataset("valid")
    batches = task.get_batch_iterator(task.dataset("valid"), max_tokens=100, max_positions=(1024, 1024))
    for batch in batches.next_epoch_itr():
        assert (batch["target"] != 1).any(dim=1).all() and batch["target"].size(0) == batch["nsentences"]
