"""Stopping anywhere and going on with exactly the batches that were left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smoe_mt.errors import UserError
from smoe_mt.tasks.dataset import WINDOW
from smoe_mt.tasks.resumable import ResumableBatches, shuffled

Opener = Callable[..., ResumableBatches]


@pytest.fixture(params=[WINDOW, 32], ids=["one window", "six windows"])
def window(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def open_batches(make_task: Any, window: int) -> Opener:
    """An iterator as fairseq's Trainer gets it, from a task of its own (as after a restart)."""

    def open_iterator(*, epoch: int = 1, workers: int = 0, rank: int = 0, ranks: int = 1, **options: Any) -> Any:
        task = make_task(epoch_pairs=170, sampling_temperature=2.0)
        task.load_dataset("train", epoch=epoch)
        task.dataset("train").sampling = replace(task.dataset("train").sampling, window=window)
        settings = {
            "max_tokens": 100,
            "max_positions": (1024, 1024),
            "ignore_invalid_inputs": True,
            "seed": 1,
            **options,
        }
        return task.get_batch_iterator(
            task.dataset("train"), epoch=epoch, num_workers=workers, num_shards=ranks, shard_id=rank, **settings
        )

    return open_iterator


def ids(batches: Iterator[Any], count: int | None = None) -> list[list[int]]:
    """Sentences of the next batches; fairseq's mark of an empty shard is []."""
    taken = []
    for batch in batches:
        taken.append(batch["id"].tolist() if batch else [])
        if len(taken) == count:
            break
    return taken


def epochs(iterator: ResumableBatches, count: int) -> list[list[list[int]]]:
    return [ids(iterator.next_epoch_itr()) for _ in range(count)]


def test_epochs_are_redrawn_and_reproducible(open_batches: Opener) -> None:
    first = epochs(open_batches(), 3)
    assert first == epochs(open_batches(), 3)
    drawn = [sorted(itertools.chain.from_iterable(epoch)) for epoch in first]
    assert [len(sentences) for sentences in drawn] == [170, 170, 170]
    assert drawn[0] != drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(open_batches: Opener, workers: int) -> None:
    assert epochs(open_batches(workers=workers, data_buffer_size=2), 2) == epochs(open_batches(), 2)


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "stop", "workers"), [(1, 3, 0), (2, 5, 2)])
def test_resumes_in_the_middle_of_an_epoch(open_batches: Opener, epoch: int, stop: int, workers: int) -> None:
    whole = epochs(open_batches(), epoch + 1)
    stopped = open_batches()
    epochs(stopped, epoch - 1)
    seen = ids(stopped.next_epoch_itr(), stop)
    resumed = open_batches(epoch=epoch, workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    rest = resumed.next_epoch_itr()
    assert rest.n == stop
    assert seen + ids(rest) == whole[epoch - 1]
    assert epochs(resumed, 1) == whole[epoch:]


@pytest.mark.slow
def test_resumes_into_an_iterator_of_another_epoch(open_batches: Opener) -> None:
    stopped = open_batches()
    whole = epochs(open_batches(), 3)[2]
    epochs(stopped, 2)
    seen = ids(stopped.next_epoch_itr(), 2)
    resumed = open_batches()
    assert resumed.first_batch["id"].tolist()
    resumed.load_state_dict(stopped.state_dict())
    assert seen + ids(resumed.next_epoch_itr()) == whole


def test_resumes_at_the_end_of_an_epoch(open_batches: Opener) -> None:
    stopped = open_batches()
    epochs(stopped, 1)
    state = stopped.state_dict()
    resumed = open_batches(epoch=state["epoch"])
    resumed.load_state_dict(state)
    assert epochs(resumed, 1) == epochs(open_batches(), 2)[1:]


def test_ranks_share_out_the_batches_of_an_epoch(open_batches: Opener) -> None:
    alone = epochs(open_batches(), 1)[0]
    ranks = [epochs(open_batches(rank=rank, ranks=3), 1)[0] for rank in range(3)]
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert [batch for batch in together if batch] == alone


@pytest.mark.slow
@pytest.mark.parametrize(("before", "stop", "after"), [(2, 3, 4), (1, 2, 3), (1, 1, 2), (3, 2, 1), (4, 1, 3)])
def test_resumes_with_another_number_of_ranks(open_batches: Opener, before: int, stop: int, after: int) -> None:
    whole = epochs(open_batches(), 1)[0]
    stopped = open_batches(ranks=before)
    ids(stopped.next_epoch_itr(), stop)
    resumed = [open_batches(rank=rank, ranks=after) for rank in range(after)]
    for iterator in resumed:
        iterator.load_state_dict(stopped.state_dict())
    rest = [ids(iterator.next_epoch_itr()) for iterator in resumed]
    together = [batch for step in zip(*rest, strict=True) for batch in step]
    assert [batch for batch in together if batch] == whole[before * stop :]


def test_stops_twice_with_changing_ranks(open_batches: Opener) -> None:
    whole = epochs(open_batches(), 1)[0]
    first = open_batches()
    ids(first.next_epoch_itr(), 3)
    second = open_batches(ranks=2)
    second.load_state_dict(first.state_dict())
    ids(second.next_epoch_itr(), 1)
    third = open_batches()
    third.load_state_dict(second.state_dict())
    assert ids(third.next_epoch_itr()) == whole[5:]


def test_fewer_batches_than_were_consumed_is_an_error(open_batches: Opener) -> None:
    stopped = open_batches()
    ids(stopped.next_epoch_itr(), 6)
    resumed = open_batches(max_tokens=10_000)
    with pytest.raises(UserError, match="6 batches of epoch 1, which now has only"):
        resumed.load_state_dict(stopped.state_dict())


def test_a_state_without_a_window_is_one_of_batches_alone(open_batches: Opener) -> None:
    whole = epochs(open_batches(), 1)[0]
    resumed = open_batches()
    resumed.load_state_dict({"version": 2, "epoch": 1, "iterations_in_epoch": 5, "shuffle": True})
    assert ids(resumed.next_epoch_itr()) == whole[5:]


def test_the_length_is_exact_in_the_last_window(open_batches: Opener) -> None:
    whole = epochs(open_batches(), 1)[0]
    iterator = open_batches()
    assert abs(len(iterator.next_epoch_itr()) - len(whole)) <= len(whole) // 2
    stopped = iterator.next_epoch_itr()
    ids(stopped, len(whole) - 1)
    assert len(iterator) == len(whole)


def test_the_state_knows_the_window_that_was_reached(open_batches: Opener, window: int) -> None:
    iterator = open_batches()
    epoch = iterator.next_epoch_itr()
    while epoch.has_next():
        next(epoch)
        state = iterator.state_dict()
        if state["epoch"] == 1:
            before = state["batches_before_window"]
            sizes = [len(iterator.batches_of_window(1, number)) for number in range(state["window"] + 1)]
            assert before == sum(sizes[:-1]) < state["batches_in_epoch"] <= sum(sizes)
    assert state["epoch"] == 2
    assert len(sizes) == (1 if window == WINDOW else 6)


def test_the_last_batch_may_be_left_out(open_batches: Opener) -> None:
    whole = epochs(open_batches(), 1)[0]
    shorter = open_batches(skip_remainder_batch=True)
    assert epochs(shorter, 1)[0] == whole[:-1]
    assert shorter.end_of_epoch()


def test_grouped_shuffling_survives_another_number_of_ranks(open_batches: Opener) -> None:
    whole = zip(*[epochs(open_batches(rank=rank, ranks=2, grouped_shuffling=True), 1)[0] for rank in range(2)])
    left = [batch for step in whole for batch in step if batch][4:]
    stopped = open_batches(ranks=2, grouped_shuffling=True)
    ids(stopped.next_epoch_itr(), 2)
    resumed = open_batches(grouped_shuffling=True)
    resumed.load_state_dict(stopped.state_dict())
    assert ids(resumed.next_epoch_itr()) == left


@pytest.mark.parametrize("first", [0, 1, 2])
def test_groups_stay_together_and_begin_with_a_step(first: int) -> None:
    batches = [np.array([number]) for number in range(32)]
    numbers = [int(batch[0]) for batch in shuffled(batches, np.random.default_rng(1), 3, first)]
    assert sorted(numbers) == list(range(32))
    assert numbers != sorted(numbers)
    for start in range(first, 30, 3):
        group = numbers[start : start + 3]
        assert group[0] % 3 == 0 and group == list(range(group[0], group[0] + 3))


@pytest.mark.parametrize("window", [WINDOW], indirect=True)
def test_grouped_shuffling_keeps_the_batches_of_a_step_together(open_batches: Opener) -> None:
    ordered = [batch.tolist() for batch in open_batches().batches_of_window(1, 0)]
    pairs = [ordered[start : start + 2] for start in range(0, len(ordered), 2)]
    ranks = [epochs(open_batches(rank=rank, ranks=2, grouped_shuffling=True), 1)[0] for rank in range(2)]
    full_steps = [list(step) for step in zip(*ranks, strict=True) if all(step)]
    assert all(step in pairs for step in full_steps[:-1])
