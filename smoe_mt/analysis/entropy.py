"""Gate entropy: how undecided each gate is, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe.names import Block


@dataclass(frozen=True)
class GateEntropy:
    """`sums[direction][block]`: double [2, gates], the sum of the entropies of all tokens at a gate, and their number."""

    blocks: tuple[Block, ...]
    sums: dict[str, dict[Block, Tensor]] = field(default_factory=dict)

    def add(self, direction: str, routings: Sequence[Any]) -> None:
        """Count a pass, on the device it was made on."""
        mine = self.sums.setdefault(direction, {})
        for block, routing in zip(self.blocks, routings, strict=True):
            tokens = torch.stack([gate.tokens.sum() for gate in routing.load]).double()
            new = torch.stack([torch.stack(list(routing.entropy)).double() * tokens, tokens])
            mine[block] = mine[block] + new if block in mine else new

    def means(self, block: Block, direction: str | None = None) -> list[float | None]:
        """Mean over the tokens at each gate of a block; None at a gate that no token reached. None: over all directions."""
        chosen = self.sums.values() if direction is None else [self.sums[direction]]
        total = torch.stack([sums[block] for sums in chosen]).sum(0)
        return [entropy / tokens if tokens else None for entropy, tokens in total.T.tolist()]
