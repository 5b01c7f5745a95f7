"""The first sentences of each direction with the visits of every token, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smoe_mt.analysis.forced import ForcedBatch
from smoe_mt.moe.names import SIDES, Block

SENTENCES = 10


@dataclass(frozen=True)
class ShownSentences:
    """`found[direction][line]`: per side its tokens (as the side reads them) and their visits by block."""

    blocks: tuple[Block, ...]
    dictionary: Any
    number: int = SENTENCES
    found: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def add(self, direction: str, batch: ForcedBatch, routings: Sequence[Any]) -> None:
        """Keep those of the batch that are among the first of their direction."""
        for row, line in enumerate(batch.lines):
            if line < self.number:
                mine = self.found.setdefault(direction, {})
                mine[line] = {side: self._side(side, row, batch, routings) for side in SIDES}

    def finish(self, direction: str) -> None:
        """Nothing is left to do."""

    def _side(self, side: str, row: int, batch: ForcedBatch, routings: Sequence[Any]) -> dict[str, Any]:
        tokens = batch.tokens(side)[row]
        length = int((tokens != self.dictionary.pad()).sum())
        visits = {
            str(block): routing.visits[row, :length].tolist()
            for block, routing in zip(self.blocks, routings, strict=True)
            if block.side == side
        }
        return {"tokens": [self.dictionary[token] for token in tokens[:length].tolist()], "visits": visits}

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Per direction its sentences in order; empty for none."""
        return {
            direction: [{"line": line + 1, **sentence} for line, sentence in sorted(lines.items())]
            for direction, lines in self.found.items()
        }
