"""Expert load: which share of its slots a gate, or a language, asks of each expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe.names import Block


def language_of(side: str, direction: str) -> str:
    """The language that a side reads: the encoder the source, the decoder the target."""
    return direction.split("-")[0 if side == "encoder" else 1]


@dataclass(frozen=True)
class ExpertLoad:
    """`asked[direction][block][gate]`: int64 [E_i], slots asked of each expert that the gate sees, its own stratum first.

    `strata`: of each block the experts of each stratum (of each layer of a stack; a plain layer has one), which number its
    experts.
    """

    strata: Mapping[Block, tuple[int, ...]]
    asked: dict[str, dict[Block, list[Tensor]]] = field(default_factory=dict)

    def add(self, direction: str, routings: Sequence[Any]) -> None:
        """Count a pass, on the device it was made on."""
        mine = self.asked.setdefault(direction, {})
        for block, routing in zip(self.strata, routings, strict=True):
            before = mine.get(block)
            new = [gate.asked for gate in routing.load]
            mine[block] = new if before is None else [one + other for one, other in zip(before, new)]

    def shares(self, direction: str) -> dict[str, list[list[float]]]:
        """Per block and gate the fraction of its slots for each expert; all 0 at a gate that no token reached."""
        return {
            str(block): [(gate.double() / gate.sum().clamp(min=1)).tolist() for gate in gates]
            for block, gates in self.asked[direction].items()
        }

    def languages(self, side: str) -> tuple[str, ...]:
        """The languages that encoder or decoder read, in alphabetical order."""
        return tuple(sorted({language_of(side, direction) for direction in self.asked}))

    def by_language(self, block: Block) -> dict[str, Tensor]:
        """Per language the fraction of its slots in a block that each of the block's experts is asked for; double [E]."""
        strata = self.strata[block]
        slots = {language: torch.zeros(sum(strata)).double() for language in self.languages(block.side)}
        for direction, blocks in self.asked.items():
            language = language_of(block.side, direction)
            for gate, asked in enumerate(blocks[block]):
                first = sum(strata[:gate])  # a gate sees the experts from its own stratum on
                slots[language][first : first + len(asked)] += asked.cpu()
        return {language: each / each.sum().clamp(min=1) for language, each in slots.items()}

    def by_stratum(self, block: Block) -> dict[str, Tensor]:
        """The same, summed over the experts of each stratum; double [L]."""
        return {
            language: torch.stack([part.sum() for part in shares.split(list(self.strata[block]))])
            for language, shares in self.by_language(block).items()
        }

    def overlap(self, block: Block) -> Tensor:
        """How alike two languages use the experts: the sum over experts of the smaller share; double [N, N], 0 to 1."""
        shares = torch.stack(list(self.by_language(block).values()))
        return torch.minimum(shares[:, None], shares[None]).sum(-1)
