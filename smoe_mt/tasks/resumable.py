"""An iterator over an epoch's batches that can stop and go on anywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from fairseq.data.iterators import EpochBatchIterator, ShardedIterator

from smoe_mt.errors import UserError
from smoe_mt.tasks.batches import Batches
from smoe_mt.tasks.dataset import ManyToManyDataset


class ResumableBatches(EpochBatchIterator):
    """fairseq's iterator, resumable anywhere and with any number of ranks and workers.

    Its state counts the batches that all ranks consumed together. The batches of an epoch and their order follow from
    (seed, epoch) alone; rank r of R takes every R-th of those that are left.
    """

    def __init__(
        self, dataset: ManyToManyDataset, batches: Callable[[ManyToManyDataset, int], Batches], **settings: Any
    ) -> None:
        self._skipped = 0  # batches consumed before this run that are no multiple of its ranks
        super().__init__(dataset, dataset.collater, batches, **settings)

    def __len__(self) -> int:
        return math.ceil((len(self.frozen_batches) - self._skipped) / self.num_shards)

    def next_epoch_itr(self, *args: Any, **kwargs: Any) -> Any:
        """An iterator over the rest of the current epoch, or over the next one."""
        if self._next_epoch_itr is None:
            self._skipped = 0
        return super().next_epoch_itr(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state and, as `batches_in_epoch`, the batches that all ranks together have consumed."""
        state = super().state_dict()
        consumed = 0 if self.end_of_epoch() else state["iterations_in_epoch"] * self.num_shards + self._skipped
        return {**state, "batches_in_epoch": consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, which may come from another number of ranks or workers.

        UserError where the epoch has fewer batches than were consumed (another data folder or batch size).
        """
        if state_dict["epoch"] != self.epoch:
            self._frozen_batches = None
        self.epoch: int = state_dict["epoch"]
        iterations = state_dict.get("iterations_in_epoch", 0)
        consumed = state_dict.get("batches_in_epoch", iterations * self.num_shards)
        self._next_epoch_itr = None
        if not consumed:
            return
        if consumed >= len(self.frozen_batches):
            raise UserError(
                f"the checkpoint stopped after {consumed} batches of epoch {self.epoch}, which now has only "
                f"{len(self.frozen_batches)}: resume with the same data and batch size, or with --reset-dataloader"
            )
        iterations, self._skipped = divmod(consumed, self.num_shards)
        shuffle = state_dict.get("shuffle", True)
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, shuffle, offset=iterations)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
        """This rank's batches of an epoch, in order (`fix_batches_to_gpus` has no use without prefetching)."""
        batches: list[Any] = list(self.frozen_batches)
        if shuffle:
            permutation = np.random.default_rng((self.seed, epoch)).permutation
            # Grouped: the ranks' batches of one step stay together, so that they are of similar length.
            group = self.num_shards if self.grouped_shuffling else 1
            groups = [batches[start : start + group] for start in range(0, len(batches), group)]
            batches = list(itertools.chain.from_iterable(groups[place] for place in permutation(len(groups))))
        return list(ShardedIterator(batches[self._skipped :], self.num_shards, self.shard_id, fill_value=[]))
