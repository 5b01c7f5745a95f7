from __future__ import annotations

from collections.abc import Iterator

import fairseq.data.iterators
import pytest
from fairseq.data.iterators import BufferedIterator, CountingIterator
from fairseq_cli import train

from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches import apply
from smoe_mt.tasks.lookahead import LookaheadBatchIterator, LookaheadGroups


def taken(iterator: CountingIterator) -> Iterator[int]:
    """Asked as fairseq-train asks: has_next after each."""
    while iterator.has_next():
        yield next(iterator)


@pytest.mark.parametrize("estimate", [0, 4, 5, 9])
def test_ends_with_the_batches_whatever_was_estimated(estimate: int) -> None:
    iterator = LookaheadBatchIterator(range(5), start=2, estimate=estimate)
    assert len(iterator) == estimate
    assert list(iterator) == [0, 1, 2, 3, 4]
    assert iterator.n == 7
    assert not iterator.has_next()


def test_counts_what_was_handed_out_not_what_was_fetched() -> None:
    iterator = LookaheadBatchIterator(range(5), start=0, estimate=5)
    next(iterator)
    assert iterator.has_next()
    assert iterator.n == 1


def test_a_buffered_iterator_is_not_asked_past_its_end() -> None:
    iterator = LookaheadBatchIterator(BufferedIterator(2, [1, 2, 3]), start=0, estimate=9)
    assert list(taken(iterator)) == [1, 2, 3]
    assert not iterator.has_next()


def test_can_be_cut_short() -> None:
    assert list(LookaheadBatchIterator(range(5), start=0, estimate=5).take(3)) == [0, 1, 2]


def test_can_leave_out_the_last() -> None:
    assert list(LookaheadBatchIterator(range(5), start=0, estimate=5, spare=1)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("skip_remainder", "expected"), [(False, [[0, 1, 2], [3, 4]]), (True, [[0, 1, 2]])])
@pytest.mark.parametrize("estimate", [1, 5, 20])
def test_groups_end_with_the_batches(skip_remainder: bool, expected: list[list[int]], estimate: int) -> None:
    batches = LookaheadBatchIterator(range(5), start=6, estimate=estimate)
    groups = LookaheadGroups(batches, 3, skip_remainder_batch=skip_remainder)
    assert list(taken(groups)) == expected
    assert not batches.has_next()  # the epoch is over for who holds the batches, too
    assert batches.n == 6 + sum(map(len, expected))


def test_other_iterators_are_grouped_as_ever() -> None:
    assert list(LookaheadGroups(CountingIterator(range(5)), 2, skip_remainder_batch=True)) == [[0, 1], [2, 3]]
    assert list(LookaheadGroups(CountingIterator(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_fairseq_train_groups_by_it() -> None:
    apply()
    assert train.iterators.GroupedIterator is fairseq.data.iterators.GroupedIterator is LookaheadGroups


@pytest.mark.parametrize(("batches", "group"), [(2, 3), (0, 1)])
def test_an_epoch_that_is_all_remainder_is_refused(batches: int, group: int) -> None:
    with pytest.raises(UserError, match=f"leaves out the whole epoch.*the {group} of one update"):
        LookaheadGroups(LookaheadBatchIterator(range(batches), start=0, estimate=9), group, skip_remainder_batch=True)


def test_the_rest_of_an_epoch_may_be_all_remainder() -> None:
    rest = LookaheadBatchIterator(range(2), start=6, estimate=9)
    assert list(taken(LookaheadGroups(rest, 3, skip_remainder_batch=True))) == []
