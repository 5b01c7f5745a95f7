"""The sentences of all directions of a split as one dataset.

A sentence's index is its place in the text of all directions, one after the other in task order. It does not depend on the
epoch: what an epoch draws are lists of such indices, made in the main process, so loader workers never need to be told.

An epoch is planned in windows, in order, when their turn comes: so the first batch is there at once and memory does not grow
with the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fairseq.data import FairseqDataset

from smoe_mt.tasks.collate import Sentence, Special, collate
from smoe_mt.tasks.draws import Draws
from smoe_mt.tasks.sampling import draw_lines, draws_per_direction, window_bounds, window_rng
from smoe_mt.tasks.shapes import BatchShape
from smoe_mt.tasks.token_file import TokenFile

WINDOW = 2**18


@dataclass(frozen=True)
class DirectionText:
    """The text of one direction."""

    name: str
    #: Place of the direction in task.directions.
    number: int
    #: Token id of the target language's tag.
    tag: int
    source: TokenFile
    target: TokenFile
    #: Raw target sentences of the first lines, those whose translations validation scores; empty for none.
    references: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Sampling:
    """How an epoch of training draws from the directions."""

    temperature: float
    #: Draws per epoch; 0 = as many as there are sentences over all directions.
    epoch_pairs: int
    seed: int
    #: Draws that are planned at a time: what planning takes in memory, and what sentences of similar length are sought in.
    window: int = WINDOW


class ManyToManyDataset(FairseqDataset):
    """Sentence pairs of several directions: sampled anew in each epoch where `sampling` is given, else all in order."""

    def __init__(self, texts: Sequence[DirectionText], special: Special, sampling: Sampling | None = None) -> None:
        super().__init__()
        self.texts = tuple(texts)
        self.special = special
        self.sampling = sampling
        #: What batches are padded to; none: each to its longest sentences.
        self.shapes: Sequence[BatchShape] = ()
        #: int64[directions + 1], the first index of each direction.
        self.offsets = np.cumsum([0] + [len(text) for text in self.texts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def locate(self, index: int) -> tuple[DirectionText, int]:
        """The direction that a sentence belongs to, and its line there."""
        part = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return self.texts[part], int(index - self.offsets[part])

    def __getitem__(self, index: int) -> Sentence:
        text, line = self.locate(index)
        reference = text.references[line] if line < len(text.references) else None
        return Sentence(int(index), text.number, text.tag, text.source[line], text.target[line], reference)

    def collater(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        """A batch in fairseq's form: see `smoe_mt.tasks.collate`."""
        return collate(sentences, self.special, self.shapes)

    @property
    def draws_per_epoch(self) -> int:
        """Sentences in a pass."""
        return (self.sampling.epoch_pairs if self.sampling else 0) or len(self)

    @property
    def windows(self) -> int:
        """Parts in which a pass is planned, of about equal size; evaluation has one."""
        return 1 if self.sampling is None else max(1, -(-self.draws_per_epoch // self.sampling.window))

    def lengths(self) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        """Part by part, how often a sentence is drawn in an epoch, and source and target lengths, int32[n] each."""
        sizes = [len(text) for text in self.texts]
        temperature = self.sampling.temperature if self.sampling else 1.0
        for text, count in zip(self.texts, draws_per_direction(sizes, temperature, self.draws_per_epoch)):
            for first in range(0, len(text) if count else 0, WINDOW):
                part = slice(first, first + WINDOW)
                yield count / len(text), text.source.sizes[part] + np.int32(1), text.target.sizes[part]

    def draws(self, epoch: int, window: int) -> Draws:
        """What a window of a pass consists of, in random order for training and in text order for evaluation."""
        if self.sampling is None:
            return self._gather([np.arange(len(text), dtype=np.int64) for text in self.texts])
        sizes = [len(text) for text in self.texts]
        seed = self.sampling.seed
        counts = draws_per_direction(sizes, self.sampling.temperature, self.draws_per_epoch)
        bounds = window_bounds(counts, self.windows, window, seed, epoch)
        lines = [
            draw_lines(text.name, len(text), int(count), seed, epoch, int(first), int(last))
            if first < last
            else np.empty(0, np.int64)
            for text, count, first, last in zip(self.texts, counts, *bounds)
        ]
        drawn = self._gather(lines)
        return drawn[window_rng(seed, epoch, window).permutation(len(drawn))]

    def _gather(self, lines: Sequence[np.ndarray]) -> Draws:
        """Draws of the given lines of each direction."""
        indices = [offset + chosen for offset, chosen in zip(self.offsets, lines)]
        source_lengths = [text.source.sizes[chosen] + np.int32(1) for text, chosen in zip(self.texts, lines)]
        target_lengths = [text.target.sizes[chosen] for text, chosen in zip(self.texts, lines)]
        return Draws(np.concatenate(indices), np.concatenate(source_lengths), np.concatenate(target_lengths))

    def size(self, index: int) -> tuple[int, int]:
        """Source and target length of a sentence, tag and </s> included."""
        text, line = self.locate(index)
        return int(text.source.sizes[line]) + 1, int(text.target.sizes[line])

    def num_tokens(self, index: int) -> int:
        """The longer side of a sentence, which decides its cost in a padded batch."""
        return max(self.size(index))

    def is_decoded(self, draws: Draws) -> np.ndarray:
        """bool[n]: the sentences that validation translates."""
        if not any(text.references for text in self.texts):
            return np.zeros(len(draws), dtype=bool)
        parts = np.searchsorted(self.offsets, draws.indices, side="right") - 1
        limits = np.array([len(text.references) for text in self.texts], dtype=np.int64)
        return draws.indices - self.offsets[parts] < limits[parts]
