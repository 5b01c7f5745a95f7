"""Mean requested capacity of each vocabulary entry, and the entries with the highest and the lowest (the paper's figure 3).

Decoder tokens are what the decoder reads: </s> at the start of a sentence, then the pieces of the reference. The tag of the
target language is no text and in no table; </s> is.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
import torch

from smoe_mt.analysis.forced import ForcedBatch
from smoe_mt.analysis.frequency import FrequencyRanks
from smoe_mt.analysis.load import language_of
from smoe_mt.moe.names import SIDES, Block
from smoe_mt.tasks.data_folder import language_tag

TOP = 25
LOWEST, HIGHEST = "lowest", "highest"


@dataclass(frozen=True)
class TokenMean:
    """One of the tokens with the lowest or the highest mean (`group`) in a block and direction."""

    direction: str
    block: Block
    group: str
    token: str
    count: int
    mean: float
    frequency_rank: int


@dataclass
class TokenCapacity:
    """Counts of one direction at a time; a finished direction leaves its rows in a file and its extremes here.

    min_count  a token that occurs less often in a direction is no candidate for the extremes: its mean says little
    stream     CSV with a row for each direction, side and token, and a column for the mean visits in each block
    """

    blocks: tuple[Block, ...]
    dictionary: Any
    ranks: FrequencyRanks
    stream: TextIO
    min_count: int = 5
    extremes: list[TokenMean] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sides = {side: tuple(b for b in self.blocks if b.side == side) for side in SIDES}
        self._sums: dict[str, torch.Tensor] = {}
        folder = self.ranks.task.folder
        tags = [self.dictionary.index(language_tag(language)) for language in folder.languages]
        self._no_text = np.array([self.dictionary.pad(), *tags])
        # Tokens of equal mean are taken in this order, which has nothing to do with how frequent they are.
        self._tie_order = np.random.default_rng(0).permutation(len(self.dictionary))
        self._write(["direction", "side", "token", "frequency_rank", "count", *map(str, self.blocks)])

    def add(self, direction: str, batch: ForcedBatch, routings: Sequence[Any]) -> None:
        """Count a pass, on the device it was made on: per side int64 [1 + blocks, V], occurrences and visits."""
        size = len(self.dictionary)
        by_block = dict(zip(self.blocks, routings, strict=True))
        for side, blocks in self._sides.items():
            tokens = batch.tokens(side).flatten()
            if side not in self._sums:
                self._sums[side] = torch.zeros((1 + len(blocks)) * size, dtype=torch.long, device=tokens.device)
            columns = [torch.ones_like(tokens), *(by_block[block].visits.flatten() for block in blocks)]
            for place, values in enumerate(columns):
                self._sums[side].index_add_(0, tokens + place * size, values)

    def finish(self, direction: str) -> None:
        """A direction is over: write its rows, keep its extremes, start anew."""
        for side, blocks in self._sides.items():
            counts, *visits = self._sums.pop(side).view(1 + len(blocks), -1).cpu().numpy()
            counts[self._no_text] = 0
            ranks = self.ranks.of(language_of(side, direction))
            means = {block: each / counts.clip(min=1) for block, each in zip(blocks, visits)}
            self._rows(direction, side, counts, ranks, means)
            for block in blocks:
                self._keep_extremes(direction, block, counts, ranks, means[block])

    def _rows(
        self, direction: str, side: str, counts: np.ndarray, ranks: np.ndarray, means: dict[Block, np.ndarray]
    ) -> None:
        for token in np.flatnonzero(counts):
            cells = [f"{means[block][token]:.6f}" if block in means else "" for block in self.blocks]
            self._write([direction, side, self.dictionary[token], ranks[token], counts[token], *cells])

    def _keep_extremes(
        self, direction: str, block: Block, counts: np.ndarray, ranks: np.ndarray, means: np.ndarray
    ) -> None:
        candidates = np.flatnonzero(counts >= self.min_count)
        number = min(TOP, len(candidates) // 2)
        order = candidates[np.lexsort((self._tie_order[candidates], means[candidates]))]
        for group, chosen in ((LOWEST, order[:number]), (HIGHEST, order[::-1][:number])):
            self.extremes += [
                TokenMean(
                    *(direction, block, group, self.dictionary[token], int(counts[token])),
                    *(float(means[token]), int(ranks[token])),
                )
                for token in chosen
            ]

    def _write(self, row: Sequence[Any]) -> None:
        csv.writer(self.stream, lineterminator="\n").writerow(row)
