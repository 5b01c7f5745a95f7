"""Keys and values of a search.

Those of the source are one set for all beams of a sentence. Those of the output are written in place, at every step one for
each beam, and never moved: which of them a beam has come from, its ancestors, is a mask. So a step copies no keys when beams change
places, and all beams of a sentence attend to one set of keys, K times as many as each needs.

Shape letters: B sentences, K beams, H heads, d dimension of a head, S source tokens, P steps there is room for,
L layers; in the second dimension of [L, 2, ...] keys and values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FIRST_ROOM = 16  # steps; doubled when they are full


@dataclass(frozen=True)
class Sources:
    """Keys and values of the sources, [L, 2, B, H, S, d], and what is added to the scores, [B, 1, 1, S]; None: no padding."""

    pairs: Tensor
    mask: Tensor | None

    @cached_property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, [B, H, S, d] each."""
        return [(keys, values) for keys, values in (pair.unbind() for pair in self.pairs.unbind())]

    def select(self, sentences: Tensor) -> Sources:
        """Those of some sentences."""
        mask = None if self.mask is None else self.mask.index_select(0, sentences)
        return Sources(self.pairs.index_select(2, sentences), mask)


@dataclass(frozen=True)
class Contents:
    """What a search has cached: pairs [L, 2, B, H, steps * K, d], those of step t and beam k at place t * K + k.

    mask  [B, 1, K, steps * K], what is added to the scores: 0 at a beam's ancestors, -inf elsewhere
    """

    sources: Sources
    pairs: Tensor
    mask: Tensor
    beam: int

    @staticmethod
    def before(sources: Sources, beam: int) -> Contents:
        """Nothing yet."""
        pairs = sources.pairs[:, :, :, :, :0]
        return Contents(sources, pairs, pairs.new_empty(pairs.size(2), 1, beam, 0), beam)

    @property
    def steps(self) -> int:
        return self.mask.size(3) // self.beam


class Caches:
    """Room for keys and values, doubled when it is full."""

    def __init__(self, contents: Contents) -> None:
        self.sources, self.beam = contents.sources, contents.beam
        self.steps = contents.steps
        self.mask = contents.mask
        self._make_room(contents.pairs, max(FIRST_ROOM, self.steps))
        own = self._pairs.new_full((self.beam, self.beam), -math.inf)
        self._own = own.fill_diagonal_(0.0)[None, None]

    @property
    def rows(self) -> int:
        """B * K."""
        return self._pairs.size(2) * self.beam

    @property
    def contents(self) -> Contents:
        """What is cached."""
        return Contents(self.sources, self._pairs.narrow(4, 0, self.steps * self.beam), self.mask, self.beam)

    def reorder(self, beam_BK: Tensor) -> None:
        """Beam k goes on from beam ``beam_BK[:, k]`` of its sentence."""
        self.mask = self.mask.gather(2, beam_BK[:, None, :, None].expand(self.mask.shape))

    def select(self, sentences: Tensor) -> None:
        """Go on with some sentences alone."""
        self.sources = self.sources.select(sentences)
        self.mask = self.mask.index_select(0, sentences)
        self._make_room(self._pairs.index_select(2, sentences), self._room)

    # --- what a step asks for ---

    def next_step(self) -> None:
        """Make room, and let each beam attend to itself."""
        if self.steps == self._room:
            self._make_room(self._pairs, 2 * self._room)
        self.steps += 1
        own = self._own.expand(self.mask.size(0), 1, self.beam, self.beam)
        self.mask = torch.cat([self.mask, own], dim=3)

    def position(self, positions_PD: Tensor) -> Tensor:
        """Of this step's tokens; [D]."""
        return positions_PD[self.steps - 1]

    def write(self, layer: int, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Add this step's keys and values, [2, B, H, K, d]; returns all keys and values so far, [B, H, steps * K, d] each."""
        pairs = self._layers[layer]
        pairs.narrow(3, (self.steps - 1) * self.beam, self.beam).copy_(pair)
        keys, values = pairs.narrow(3, 0, self.steps * self.beam).unbind()
        return keys, values

    def _make_room(self, pairs: Tensor, room: int) -> None:
        if pairs.size(4) < room * self.beam:
            larger = pairs.new_empty(*pairs.shape[:4], room * self.beam, pairs.size(5))
            larger.narrow(4, 0, pairs.size(4)).copy_(pairs)
            pairs = larger
        self._pairs, self._layers, self._room = pairs, pairs.unbind(), room
