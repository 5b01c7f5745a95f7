"""One teacher-forced pass of a trained model over a split: requested capacity, load and entropy of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from smoe_mt.analysis.entropy import GateEntropy
from smoe_mt.analysis.forced import ForcedBatch, direction_texts, forced_batches
from smoe_mt.analysis.load import ExpertLoad
from smoe_mt.analysis.tokens import TokenMean
from smoe_mt.analysis.units import UnitMeans
from smoe_mt.analysis.visits import VisitCounts, routings_of
from smoe_mt.errors import UserError
from smoe_mt.evaluation.selection import choose_directions
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.names import SIDES, Block, blocks_of
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.structure import groups_by_side
from smoe_mt.progress import progress_bar

FORMAT = 3


@dataclass(frozen=True)
class Request:
    """What to look at: a split, all of its directions or some, all sentences or the first `limit` of each direction."""

    split: str = "test"
    directions: tuple[str, ...] = ()
    limit: int | None = None
    max_tokens: int = 4096


class TokenWatcher(Protocol):
    """Looks at single tokens while a split is read, one direction after the other."""

    def add(self, direction: str, batch: ForcedBatch, routings: Sequence[Any]) -> None:
        """Look at a batch."""

    def finish(self, direction: str) -> None:
        """The direction is over."""


@dataclass(frozen=True)
class CapacityReport:
    """What the blocks of a model did with the tokens of a split."""

    visits: VisitCounts
    load: ExpertLoad
    entropy: GateEntropy
    units: UnitMeans
    details: dict[str, Any]
    extremes: list[TokenMean] = field(default_factory=list)

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that were read."""
        return tuple(self.visits.counts)

    @property
    def sides(self) -> tuple[str, ...]:
        """Encoder and decoder, as far as they have blocks."""
        return tuple(side for side in SIDES if self.visits.side(side))

    @property
    def varies(self) -> bool:
        """Whether any two tokens request different capacity in any block."""
        return len(self.visits.collapsed()) < len(self.visits.blocks)

    def as_json(self) -> dict[str, Any]:
        """The content of requested_capacity.json."""
        visits = self.visits
        return {
            "format": FORMAT,
            **self.details,
            "strata": visits.strata,
            "sub_tokens": visits.sub_tokens,
            "collapsed": [str(block) for block in visits.collapsed()],
            "blocks": {
                str(block): {
                    "mean": visits.mean(block),
                    "histogram": visits.histogram(block),
                    "units": self.units.mean(block),
                }
                for block in visits.blocks
            },
            "directions": {direction: self._direction(direction) for direction in self.directions},
        }

    def _direction(self, direction: str) -> dict[str, Any]:
        visits = self.visits
        entry: dict[str, Any] = {
            side: {
                "mean": visits.side_mean(side, direction),
                "tokens": visits.tokens(side, direction),
                "blocks": {
                    str(block): {"mean": visits.mean(block, direction), "histogram": visits.histogram(block, direction)}
                    for block in visits.side(side)
                },
            }
            for side in self.sides
        }
        entropy = {str(block): self.entropy.means(block, direction) for block in visits.blocks}
        return {**entry, "expert_load": self.load.shares(direction), "gate_entropy_nats": entropy}


def strata_of(loaded: LoadedModel) -> dict[Block, tuple[int, ...]]:
    """Of each block the experts of each stratum; of each layer for stacking, and all experts for a block with one gate.

    Raises UserError for a model without experts.
    """
    model = loaded.config.model
    if str(model.moe) == DENSE:
        raise UserError(
            f"{loaded.checkpoint}: a model with --moe none has no experts and no gates, so there is nothing to analyse; "
            "give a model trained with --moe stratified, or any other kind but none"
        )
    groups = groups_by_side(model)
    return dict(zip(blocks_of(loaded.model), (*groups["encoder"], *groups["decoder"]), strict=True))


def sub_tokens_of(loaded: LoadedModel) -> int:
    """The parts of a token that walk through a block on their own."""
    return SYSTEMS[str(loaded.config.model.moe)].sub_tokens(loaded.config.model)


def model_title(loaded: LoadedModel) -> str:
    """How figures name the model: SMoE-4-12, or its kind and number of experts; of blocks that differ, the first one's."""
    strata = list(strata_of(loaded).values())
    title = SYSTEMS[str(loaded.config.model.moe)].title_in_figures(strata[0])
    return title if len(set(strata)) == 1 else f"{title} and others"


@torch.no_grad()
def requested_capacity(
    loaded: LoadedModel, request: Request, name: str, watchers: Sequence[TokenWatcher] = ()
) -> CapacityReport:
    """Read the split's references with teacher forcing, and count. Tag and </s> count as tokens, padding does not.

    Each direction is read once, in bounded memory; `watchers` see every batch. Raises UserError for a model without
    experts, and for an unknown split or direction.
    """
    strata = strata_of(loaded)
    model, task = loaded.model, loaded.task
    directions = choose_directions(task, request.split, request.directions)
    texts = direction_texts(task, request.split, directions)
    blocks = blocks_of(model)
    counters = (
        VisitCounts(blocks, max(map(len, strata.values())), sub_tokens=sub_tokens_of(loaded)),
        ExpertLoad(strata),
        GateEntropy(blocks),
        UnitMeans(blocks),
    )
    sentences = {text.name: min(len(text), request.limit or len(text)) for text in texts}
    with progress_bar(sum(sentences.values()), f"{name}: reading") as bar:
        for text in texts:
            bar.set_postfix_str(text.name)
            for batch in forced_batches(task, model, text, request.limit, request.max_tokens):
                _, extra = model(**batch.net_input)
                routings = routings_of(extra)
                for counter in counters:
                    counter.add(text.name, routings)
                for watcher in watchers:
                    watcher.add(text.name, batch, routings)
                bar.update(len(batch.lines))
            for watcher in watchers:
                watcher.finish(text.name)
    details = {
        "name": name,
        "checkpoint": str(loaded.checkpoint.absolute()),
        "updates": loaded.updates,
        "model": model_title(loaded),
        "split": request.split,
        "limit": request.limit,
        "sentences": sentences,
    }
    return CapacityReport(*counters, details)
