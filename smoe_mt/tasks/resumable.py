"""An iterator over an epoch's batches that can stop and continue anywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from fairseq.data.iterators import BufferedIterator, EpochBatchIterator
from torch.utils.data import DataLoader

from smoe_mt.errors import UserError
from smoe_mt.preemption import leave_it_to_the_trainer
from smoe_mt.tasks.batches import Batches
from smoe_mt.tasks.dataset import ManyToManyDataset
from smoe_mt.tasks.epoch_plan import EpochPlan, Place
from smoe_mt.tasks.lookahead import LookaheadBatchIterator

SHUFFLE_STREAM = 5  # keeps the order of batches apart from what else is drawn with the seed


@dataclass
class RankShare:
    """What a loader goes through: this rank's batch of each step, [] where the last step has none for it."""

    plan: EpochPlan
    rank: int
    ranks: int

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.plan)
        while step := list(itertools.islice(batches, self.ranks)):
            yield step[self.rank] if self.rank < len(step) else []

    def __len__(self) -> int:
        return math.ceil(self.plan.estimate / self.ranks)


class ResumableBatches(EpochBatchIterator):
    """fairseq's iterator, planned in windows and resumable anywhere and with any number of ranks and workers.

    Its state counts the batches that all ranks consumed together, and names the window they end in. The batches of an epoch
    and their order follow from (seed, epoch) alone; rank r of R takes every R-th of those that are left. How many there are is
    known when the last window is planned; until then `len` is an estimate, and `has_next` is exact all the same.

    `batches`: (dataset, epoch, window) -> batches, shortest first.
    """

    def __init__(
        self, dataset: ManyToManyDataset, batches: Callable[[ManyToManyDataset, int, int], Batches], **settings: Any
    ) -> None:
        super().__init__(dataset, dataset.collater, batches, **settings)
        self._skipped = 0  # batches consumed before this run that are no multiple of its ranks
        self._plan: EpochPlan | None = None
        self._group = 1
        self._share: RankShare | None = None
        self._loader_in_use: DataLoader[Any] | None = None
        # Whoever asks for the first batch, or validates again, need not plan twice.
        self._packed = lru_cache(maxsize=1)(lambda epoch, window: batches(dataset, epoch, window))

    def __len__(self) -> int:
        plan = self._plan or self._plan_from(self.epoch, Place(), self.shuffle)
        return math.ceil((plan.estimate - self._skipped) / self.num_shards)

    @cached_property
    def first_batch(self) -> Any:
        """Some batch, for fairseq to keep as a stand-in where a rank has none."""
        return self.collate_fn([self.dataset[index] for index in self.batches_of_window(self.epoch, 0)[0]])

    def next_epoch_itr(self, *args: Any, **kwargs: Any) -> Any:
        """An iterator over the rest of the current epoch, or over the next one."""
        if self._next_epoch_itr is None:
            self._skipped, self._plan = 0, None
        return super().next_epoch_itr(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state and, of all ranks together: `batches_in_epoch` consumed, `window` that the last of them is in,
        `batches_before_window`, and `shuffled_in_groups_of`."""
        state = super().state_dict()
        consumed = 0 if self.end_of_epoch() else state["iterations_in_epoch"] * self.num_shards + self._skipped
        place = self._plan.place_of(consumed) if self._plan and consumed else Place()
        return {
            **state,
            "batches_in_epoch": consumed,
            "window": place.window,
            "batches_before_window": place.before,
            "shuffled_in_groups_of": self._group if consumed else 0,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, which may come from another number of ranks or workers.

        UserError where the epoch has fewer batches than were consumed (another data folder or batch size).
        """
        self.epoch: int = state_dict["epoch"]
        iterations = state_dict.get("iterations_in_epoch", 0)
        consumed = state_dict.get("batches_in_epoch", iterations * self.num_shards)
        self._next_epoch_itr = None
        if not consumed:
            return
        place = Place(state_dict.get("window", 0), state_dict.get("batches_before_window", 0))
        shuffle = state_dict.get("shuffle", True)
        self._plan = self._plan_from(self.epoch, place, shuffle, state_dict.get("shuffled_in_groups_of"))
        if ("window" in state_dict and consumed > self._plan.planned) or not self._plan.skip_to(consumed):
            raise UserError(
                f"the checkpoint stopped after {consumed} batches of epoch {self.epoch}, which now has only "
                f"{self._plan.planned} up to there: resume with the same data and batch size, or with --reset-dataloader"
            )
        iterations, self._skipped = divmod(consumed, self.num_shards)
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, shuffle, offset=iterations)

    # --- what a pass goes through ---

    def batches_of_window(self, epoch: int, window: int) -> Batches:
        """The batches of a window, shortest first."""
        return self._packed(epoch if self.dataset.sampling else 1, window)

    def _plan_from(self, epoch: int, place: Place, shuffle: bool, group: int | None = None) -> EpochPlan:
        self._group = size = group or (self.num_shards if self.grouped_shuffling else 1)

        def batches_of(place: Place) -> Batches:
            batches = self.batches_of_window(epoch, place.window)
            rng = np.random.default_rng((self.seed, SHUFFLE_STREAM, epoch, place.window))
            return shuffled(batches, rng, size, -place.before % size) if shuffle else batches

        return EpochPlan(batches_of, self.dataset.windows, place)

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ) -> LookaheadBatchIterator:
        """The loader over what `_plan` has left (`fix_batches_to_gpus` has no use without prefetching)."""
        if self._plan is None:
            self._plan = self._plan_from(epoch, Place(), shuffle)
        batches: Any = self._loader(self._plan)
        if self.buffer_size > 0:
            batches = BufferedIterator(self.buffer_size, batches)
            batches.total = None  # to the end, wherever that is
        return LookaheadBatchIterator(batches, offset, len(self), spare=int(self.skip_remainder_batch))

    def _loader(self, plan: EpochPlan) -> Any:
        """The same loader for every epoch, so that its workers can stay."""
        if self._share is None:
            self._share = RankShare(plan, self.shard_id, self.num_shards)
            self._loader_in_use = DataLoader(
                self.dataset,
                collate_fn=self.collate_fn,
                batch_sampler=self._share,  # type: ignore[arg-type]  # any iterable will do
                num_workers=self.num_workers,
                timeout=self.timeout,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=self.persistent_workers,
                worker_init_fn=leave_it_to_the_trainer,
            )
        self._share.plan = plan
        return self._loader_in_use


def shuffled(batches: Batches, rng: np.random.Generator, group: int, first: int) -> Batches:
    """The batches in random order, in groups that stay together: a step's batches of all ranks are then of similar length.

    `first`: batches in front that belong to a group before. They and an unfinished group at the end are the longest.
    """
    head = len(batches) - min(first, len(batches))
    whole = head // group
    order = (batches[place * group : (place + 1) * group] for place in rng.permutation(whole))
    return [*batches[head:], *itertools.chain.from_iterable(order), *batches[whole * group : head]]
