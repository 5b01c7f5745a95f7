from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.errors import UserError
from smoe_mt.tasks.batches import BatchLimits, limits_from_fairseq
from smoe_mt.tasks.draws import Draws

lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=200)
LIMITS = BatchLimits(max_tokens=120, max_sentences=None, longest_source=1024, longest_target=1024)


def draws_of(pairs: list[tuple[int, int]]) -> Draws:
    source, target = np.array(pairs, dtype=np.int32).T
    return Draws(np.arange(len(pairs), dtype=np.int64), source, target)


@given(lengths, st.integers(30, 200), st.sampled_from([1, 8]))
def test_every_draw_is_in_one_batch_within_the_limits(
    pairs: list[tuple[int, int]], max_tokens: int, multiple: int
) -> None:
    batches = replace(LIMITS, max_tokens=max_tokens, multiple=multiple).pack(draws_of(pairs))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
    for batch in batches:
        assert len(batch) * max(max(pairs[index]) for index in batch) <= max_tokens
        assert len(batch) <= multiple or len(batch) % multiple == 0


def test_a_limit_on_sentences() -> None:
    batches = replace(LIMITS, max_tokens=None, max_sentences=3).pack(draws_of([(2, 2)] * 7))
    assert [len(batch) for batch in batches] == [3, 3, 1]


@pytest.fixture
def dataset(make_task: Any) -> Any:
    task = make_task()
    task.load_dataset("train")
    return task.dataset("train")


def test_batches_mix_directions(dataset: Any) -> None:
    batch = dataset.collater([dataset[int(index)] for index in LIMITS.batches(dataset, 1, 0)[10]])
    assert len(set(batch["direction"].tolist())) > 1


def test_long_sentences_are_skipped_and_counted(dataset: Any, caplog: pytest.LogCaptureFixture) -> None:
    draws = dataset.draws(1, 0)
    kept = int((np.maximum(draws.source_lengths, draws.target_lengths) <= 6).sum())
    with caplog.at_level(logging.WARNING):
        batches = replace(LIMITS, longest_source=6, longest_target=6).batches(dataset, 1, 0)
    assert 0 < sum(map(len, batches)) == kept < 380
    assert f"skips {380 - kept} of 380 sentences" in caplog.text


def test_long_sentences_in_evaluation_are_named(make_task: Any) -> None:
    task = make_task()
    task.load_dataset("valid")
    with pytest.raises(UserError, match=r"sentence \d+ of valid\.aa-en\.aa \(aa-en\) is longer than 4 source or 4"):
        replace(LIMITS, max_tokens=4, skip_long=False).batches(task.dataset("valid"), 1, 0)


def test_nothing_left_to_train_on(dataset: Any) -> None:
    with pytest.raises(UserError, match="all 380 sentences are longer"):
        replace(LIMITS, longest_target=1).batches(dataset, 1, 0)


@pytest.mark.parametrize(("positions", "expected"), [((9, 8), (9, 8)), (7, (7, 7)), (None, (2**31 - 1,) * 2)])
def test_limits_from_fairseq(positions: Any, expected: tuple[int, int]) -> None:
    limits = limits_from_fairseq({"max_tokens": 50.0, "max_positions": positions}, skip_long=False)
    assert (limits.longest_source, limits.longest_target) == expected
    assert (limits.max_tokens, limits.max_sentences, limits.skip_long) == (50, None, False)


def test_sentences_to_be_translated_are_batched_apart(make_task: Any) -> None:
    task = make_task(eval_bleu=True, eval_bleu_sentences=5)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    kinds = []
    for batch in LIMITS.batches(dataset, 1, 0):
        references = [dataset[int(index)].reference for index in batch]
        kinds.append({reference is not None for reference in references})
    assert all(len(kind) == 1 for kind in kinds)
    assert sum(len(batch) for batch, kind in zip(LIMITS.batches(dataset, 1, 0), kinds) if kind == {True}) == 4 * 5
