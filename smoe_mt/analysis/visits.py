"""Requested capacity: how many strata process each token (the paper's RC, 1..L), counted per block and direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe.names import Block


def routings_of(extra: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the model returned for its blocks, in the order of `blocks_of`."""
    return (*extra["encoder_routing"], *extra["decoder_routing"])


@dataclass(frozen=True)
class VisitCounts:
    """`counts[direction][block]`: int64 [`most`], entry v - 1 = tokens with v visits.

    strata      the most of a block
    sub_tokens  the parts of a token that walk on their own; its visits are the sum of theirs
    """

    blocks: tuple[Block, ...]
    strata: int
    counts: dict[str, dict[Block, Tensor]] = field(default_factory=dict)
    sub_tokens: int = 1

    @property
    def most(self) -> int:
        """The most visits that a token can make in a block."""
        return self.strata * self.sub_tokens

    def add(self, direction: str, routings: Sequence[Any]) -> None:
        """Count a pass, on the device it was made on. Padding, which has 0 visits, is not counted."""
        mine = self.counts.setdefault(direction, {})
        for block, routing in zip(self.blocks, routings, strict=True):
            visits = routing.visits
            # By comparison: bincount would read its largest value back from a device.
            new = torch.stack([(visits == count).sum() for count in range(1, self.most + 1)])
            mine[block] = mine[block] + new if block in mine else new

    def histogram(self, block: Block, direction: str | None = None) -> list[float]:
        """Fractions of tokens with 1, 2, ... visits in a block; None: over all directions, each token counting once."""
        counts = self.total(block) if direction is None else self.counts[direction][block]
        return (counts.double() / counts.sum().clamp(min=1)).tolist()

    def total(self, block: Block) -> Tensor:
        """int64 [`most`]: tokens with 1, 2, ... visits in a block, over all directions."""
        return torch.stack([mine[block] for mine in self.counts.values()]).sum(0)

    def mean(self, block: Block, direction: str | None = None) -> float:
        """Mean requested capacity of a block."""
        return sum(visits * share for visits, share in enumerate(self.histogram(block, direction), start=1))

    def side_mean(self, side: str, direction: str | None = None) -> float:
        """Mean over the blocks of encoder or decoder."""
        blocks = self.side(side)
        return sum(self.mean(block, direction) for block in blocks) / len(blocks)

    def side(self, side: str) -> tuple[Block, ...]:
        """The blocks of encoder or decoder."""
        return tuple(block for block in self.blocks if block.side == side)

    def collapsed(self) -> tuple[Block, ...]:
        """The blocks in which all tokens of all directions have the same number of visits."""
        return tuple(block for block in self.blocks if int((self.total(block) > 0).sum()) <= 1)

    def tokens(self, side: str, direction: str) -> int:
        """Tokens of a direction that went through encoder or decoder."""
        blocks = self.side(side)
        return int(self.counts[direction][blocks[0]].sum()) if blocks else 0
