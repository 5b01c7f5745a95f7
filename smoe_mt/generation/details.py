"""Details of a translation: the n best candidates, their scores, and how many strata processed each piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoe_mt.generation.batching import batch_by_tokens


@dataclass(frozen=True)
class Visits:
    """How many sets of experts processed each piece, by MoE block.

    pieces  source: tag, pieces, </s>; target: what the decoder read, so </s> and then the pieces of the output
    layers  number of the layer (1-based) -> visits of each piece in its block; {} for a model without MoE blocks
    """

    pieces: tuple[str, ...]
    layers: dict[int, tuple[int, ...]]

    def means(self) -> tuple[float, ...]:
        """Visits of each piece, mean over the blocks; () for a model without MoE blocks."""
        return tuple(sum(counts) / len(counts) for counts in zip(*self.layers.values()))


@dataclass(frozen=True)
class Candidate:
    """One of the n best: raw text, its log-probability divided by length ** lenpen, and visits where they were asked for."""

    text: str
    score: float
    source_visits: Visits | None = None
    target_visits: Visits | None = None


@dataclass(frozen=True)
class Translation:
    """A source line with its candidates, the best first (an empty line has the empty candidate)."""

    source: str
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """The best candidate."""
        return self.candidates[0].text

    @property
    def score(self) -> float:
        """The best candidate's score."""
        return self.candidates[0].score


@torch.no_grad()
def visits_of_pairs(
    task: Any, model: Any, sources: Sequence[Tensor], targets: Sequence[Tensor], max_tokens: int
) -> list[tuple[Visits, Visits]]:
    """Source and target visits of each pair, from one teacher-forced pass over all of them.

    `sources` int64[tokens] with tag and </s>, `targets` int64[tokens] without </s>. A pass drops no token, so the visits are
    those that the search made, to rounding.
    """
    found: list[tuple[Visits, Visits]] = [(Visits((), {}), Visits((), {}))] * len(sources)
    end = torch.tensor([task.dictionary.eos()])
    read = [torch.cat([end, target]) for target in targets]
    lengths = [max(len(source), len(target)) for source, target in zip(sources, read)]
    device = next(model.parameters()).device
    for batch in batch_by_tokens(lengths, max_tokens):
        ended = [torch.cat([targets[index], end]) for index in batch]
        sample = task.collate([sources[index] for index in batch], ended)
        _, extra = model(**{name: tensor.to(device) for name, tensor in sample["net_input"].items()})
        source_side = _visits(task, sources, batch, model.moe_layers["encoder"], extra["encoder_routing"])
        target_side = _visits(task, read, batch, model.moe_layers["decoder"], extra["decoder_routing"])
        for index, pair in zip(batch, zip(source_side, target_side)):
            found[index] = pair
    return found


def _visits(
    task: Any, tokens: Sequence[Tensor], batch: Sequence[int], layers: Sequence[int], routings: Sequence[Any]
) -> Iterator[Visits]:
    counts = {layer: routing.visits.tolist() for layer, routing in zip(layers, routings, strict=True)}
    for row, index in enumerate(batch):
        pieces = tuple(task.dictionary[token] for token in tokens[index].tolist())
        yield Visits(pieces, {layer: tuple(rows[row][: len(pieces)]) for layer, rows in counts.items()})
