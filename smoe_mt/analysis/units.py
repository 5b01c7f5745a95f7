"""Hidden units of experts that a token is processed by: what requested capacity costs, whatever the size of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe.names import Block


@dataclass(frozen=True)
class UnitMeans:
    """`sums[direction][block]`: int64 [2], the units of all tokens, and the number of tokens. Padding is not counted."""

    blocks: tuple[Block, ...]
    sums: dict[str, dict[Block, Tensor]] = field(default_factory=dict)
    _least_most: dict[Block, Tensor] = field(default_factory=dict)

    def add(self, direction: str, routings: Sequence[Any]) -> None:
        """Count a pass, on the device it was made on."""
        mine = self.sums.setdefault(direction, {})
        for block, routing in zip(self.blocks, routings, strict=True):
            units, tokens = routing.units, routing.visits > 0
            new = torch.stack([units.sum(), tokens.sum()])
            span = torch.stack([torch.where(tokens, units, units.max()).min(), units.max()])
            before = self._least_most.get(block, span)
            self._least_most[block] = torch.stack(
                [torch.minimum(before[0], span[0]), torch.maximum(before[1], span[1])]
            )
            mine[block] = mine[block] + new if block in mine else new

    @property
    def varies(self) -> bool:
        """Whether any two tokens have different numbers of units in a block."""
        each = torch.stack(list(self._least_most.values())) if self._least_most else torch.zeros(1, 2)
        return bool((each[:, 0] < each[:, 1]).any())

    def mean(self, block: Block, direction: str | None = None) -> float:
        """Mean over the tokens of a block; None: over all directions, each token counting once."""
        chosen = self.sums.values() if direction is None else [self.sums[direction]]
        units, tokens = torch.stack([sums[block] for sums in chosen]).sum(0).tolist()
        return float(units / max(tokens, 1))
