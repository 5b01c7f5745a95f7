"""Draws -> batches of similar length, and an iterator over them that can stop and go on anywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from fairseq.data.data_utils_fast import batch_by_size_vec
from fairseq.data.iterators import EpochBatchIterator, ShardedIterator

from smoe_mt.errors import UserError
from smoe_mt.tasks.dataset import Draws, ManyToManyDataset

Batches = list[np.ndarray]  # of int64[sentences], indices into the dataset


def by_length(draws: Draws) -> Draws:
    """Sorted by source length, then target length; draws of equal lengths keep their order."""
    return draws[np.lexsort((draws.target_lengths, draws.source_lengths))]


def fitting(draws: Draws, longest_source: int, longest_target: int) -> np.ndarray:
    """bool[n]: the draws within the given lengths (in tokens, tag and </s> included)."""
    return (draws.source_lengths <= longest_source) & (draws.target_lengths <= longest_target)


def make_batches(draws: Draws, max_tokens: int | None, max_sentences: int | None, multiple: int = 1) -> Batches:
    """Batches of sentences of similar length.

    Sentences x longest side of a batch stay within `max_tokens` (tag and </s> counted), sentences within `max_sentences`;
    a batch of more than `multiple` sentences has a multiple of them. Every draw is in a batch: fairseq's own function drops a
    last batch that is no multiple of 8, which in evaluation loses sentences.
    """
    draws = by_length(draws)
    tokens = np.maximum(draws.source_lengths, draws.target_lengths).astype(np.int64)
    return batch_by_size_vec(draws.indices, tokens, max_tokens or -1, max_sentences or -1, multiple)


class ResumableBatches(EpochBatchIterator):
    """fairseq's iterator, resumable anywhere and with any number of ranks and workers.

    Its state counts the batches that all ranks consumed together. The batches of an epoch and their order follow from
    (seed, epoch) alone; rank r of R takes every R-th of those that are left.
    """

    def __init__(self, dataset: ManyToManyDataset, batches: Batches | Callable[..., Batches], **settings: Any) -> None:
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
        """Go on from a state, which may come from another number of ranks or workers."""
        if callable(self.batch_sampler) and state_dict["epoch"] != self.epoch:
            self._frozen_batches = None
        self.epoch: int = state_dict["epoch"]
        iterations = state_dict.get("iterations_in_epoch", 0)
        consumed = state_dict.get("batches_in_epoch", iterations * self.num_shards)
        if consumed >= len(self.frozen_batches):
            raise UserError(
                f"the checkpoint stopped after {consumed} batches of epoch {self.epoch}, which now has only "
                f"{len(self.frozen_batches)}: resume with the same data and batch size, or with --reset-dataloader"
            )
        self._next_epoch_itr = None
        if consumed:
            iterations, self._skipped = divmod(consumed, self.num_shards)
            shuffle = state_dict.get("shuffle", True)
            self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, shuffle, offset=iterations)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
        """This rank's batches of an epoch, in order (`fix_batches_to_gpus` has no use without prefetching)."""
        batches: list[Any] = list(self.frozen_batches)
        if shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation
            if self.grouped_shuffling:
                groups = [batches[start : start + self.num_shards] for start in range(0, len(batches), self.num_shards)]
                batches = list(itertools.chain.from_iterable(groups[i] for i in order(len(groups))))
            else:
                batches = [batches[i] for i in order(len(batches))]
        return list(ShardedIterator(batches[self._skipped :], self.num_shards, self.shard_id, fill_value=[]))
