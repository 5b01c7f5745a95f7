"""Details of a translation: the n best candidates, their scores, and how many strata processed each piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.generation.batching import batch_by_tokens
from smoe_mt.generation.experts_taken import Listener, PieceExperts
from smoe_mt.moe.names import blocks_of


@dataclass(frozen=True)
class Visits:
    """How many sets of experts processed each piece, by MoE block.

    pieces  source: tag, pieces, </s>; target: what the decoder read, so </s> and then the pieces of the output
    blocks  name of a block (``decoder.layers.1``) -> visits of each piece in it; {} for a model without MoE blocks
    experts name of a block -> of each piece, the experts of each of its visits, numbered from 1 in the block
    """

    pieces: tuple[str, ...]
    blocks: dict[str, tuple[int, ...]]
    experts: dict[str, tuple[PieceExperts, ...]] = field(default_factory=dict)

    def means(self) -> tuple[float, ...]:
        """Visits of each piece, mean over the blocks; () for a model without MoE blocks."""
        return tuple(sum(counts) / len(counts) for counts in zip(*self.blocks.values()))


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


@dataclass(frozen=True)
class BlockMeans:
    """Of a MoE block, the mean over tokens of their visits and of the hidden units that they asked for."""

    visits: float
    units: float


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
    with Listener(model) as listener:
        for batch, extra in _forced_passes(task, model, sources, targets, max_tokens):
            source_side = _visits(task, listener, sources, batch, "encoder", extra)
            target_side = _visits(task, listener, read, batch, "decoder", extra)
            for index, pair in zip(batch, zip(source_side, target_side)):
                found[index] = pair
            listener.forget()
    return found


@torch.no_grad()
def block_means(
    task: Any, model: Any, sources: Sequence[Tensor], targets: Sequence[Tensor], max_tokens: int = 4096
) -> dict[str, BlockMeans]:
    """What the MoE blocks do with these pairs, as `visits_of_pairs` reads them; pairs beyond the model's positions are left out."""
    most_source, most_target = model.max_positions()
    fitting = [i for i, source in enumerate(sources) if len(source) <= most_source and len(targets[i]) < most_target]
    sources, targets = [sources[i] for i in fitting], [targets[i] for i in fitting]
    sums: dict[str, Tensor] = {}
    for _, extra in _forced_passes(task, model, sources, targets, max_tokens):
        routings = (*extra["encoder_routing"], *extra["decoder_routing"])
        for block, one in zip(blocks_of(model), routings, strict=True):
            new = torch.stack([(one.visits > 0).sum(), one.visits.sum(), one.units.sum()])
            sums[str(block)] = sums.get(str(block), 0) + new
    counts = {block: each.tolist() for block, each in sums.items()}
    return {block: BlockMeans(visits / tokens, units / tokens) for block, (tokens, visits, units) in counts.items()}


def _forced_passes(
    task: Any, model: Any, sources: Sequence[Tensor], targets: Sequence[Tensor], max_tokens: int
) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
    """Indices of the pairs of each batch, and what the model returns besides its scores."""
    end = torch.tensor([task.dictionary.eos()])
    lengths = [max(len(source), len(target) + 1) for source, target in zip(sources, targets)]
    device = next(model.parameters()).device
    for batch in batch_by_tokens(lengths, max_tokens):
        ended = [torch.cat([targets[index], end]) for index in batch]
        sample = task.collate([sources[index] for index in batch], ended)
        _, extra = model(**{name: tensor.to(device) for name, tensor in sample["net_input"].items()})
        yield batch, extra


def _visits(
    task: Any, listener: Listener, tokens: Sequence[Tensor], batch: Sequence[int], side: str, extra: Mapping[str, Any]
) -> Iterator[Visits]:
    blocks = [block for block in blocks_of(listener.model) if block.side == side]
    counts = {str(block): one.visits.tolist() for block, one in zip(blocks, extra[f"{side}_routing"], strict=True)}
    lengths = [len(tokens[index]) for index in batch]
    experts = {str(block): listener.experts_of_pieces(block, lengths) for block in blocks}
    for row, index in enumerate(batch):
        pieces = tuple(task.dictionary[token] for token in tokens[index].tolist())
        visits = {block: tuple(rows[row][: len(pieces)]) for block, rows in counts.items()}
        yield Visits(pieces, visits, {block: rows[row] for block, rows in experts.items() if rows})
