"""Expert load: which share of a gate's slots is asked of each expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from smoe_mt.analysis.visits import Block


@dataclass(frozen=True)
class ExpertLoad:
    """`asked[direction][block][gate]`: int64 [E_i], slots asked of each expert that the gate sees, its own stratum first."""

    blocks: tuple[Block, ...]
    asked: dict[str, dict[Block, list[Tensor]]] = field(default_factory=dict)

    def add(self, direction: str, routings: Sequence[Any]) -> None:
        """Count a pass."""
        mine = self.asked.setdefault(direction, {})
        for block, routing in zip(self.blocks, routings, strict=True):
            new = [gate.asked.cpu() for gate in routing.load]
            before = mine.get(block)
            mine[block] = new if before is None else [one + other for one, other in zip(before, new)]

    def shares(self, direction: str) -> dict[str, list[list[float]]]:
        """Per block and gate the fraction of its slots for each expert; all 0 at a gate that no token reached."""
        return {
            str(block): [(gate.double() / gate.sum().clamp(min=1)).tolist() for gate in gates]
            for block, gates in self.asked[direction].items()
        }
