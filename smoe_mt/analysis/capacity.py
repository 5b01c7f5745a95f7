"""Requested capacity of a trained model over a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from smoe_mt.analysis.forced import forced_batches
from smoe_mt.analysis.load import ExpertLoad
from smoe_mt.analysis.visits import VisitCounts, blocks_of, routings_of
from smoe_mt.errors import UserError
from smoe_mt.evaluation.progress import progress_bar
from smoe_mt.evaluation.selection import choose_directions, read_text
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.moe import parse_strata

FORMAT = 1
SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class Request:
    """What to look at: a split, all of its directions or some, all sentences or the first `limit` of each direction."""

    split: str = "test"
    directions: tuple[str, ...] = ()
    limit: int | None = None
    max_tokens: int = 4096


@dataclass(frozen=True)
class CapacityReport:
    """What the blocks of a model did with the tokens of a split."""

    visits: VisitCounts
    load: ExpertLoad
    details: dict[str, Any]

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that were read."""
        return tuple(self.visits.counts)

    @property
    def sides(self) -> tuple[str, ...]:
        """Encoder and decoder, as far as they have blocks."""
        return tuple(side for side in SIDES if self.visits.side(side))

    def as_json(self) -> dict[str, Any]:
        """The content of requested_capacity.json."""
        visits = self.visits
        return {
            "format": FORMAT,
            **self.details,
            "strata": visits.strata,
            "collapsed": [str(block) for block in visits.collapsed()],
            "blocks": {
                str(block): {"mean": visits.mean(block), "histogram": visits.histogram(block)}
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
        return {**entry, "expert_load": self.load.shares(direction)}


def require_strata(loaded: LoadedModel) -> tuple[int, ...]:
    """The strata of a model; UserError for one that gives every token the same capacity by construction."""
    kind = str(loaded.config.model.moe)
    if kind != "stratified":
        raise UserError(
            f"{loaded.checkpoint}: a model with --moe {kind} has no strata, so every token gets the same capacity and there "
            "is nothing to analyse; give a model trained with --moe stratified"
        )
    return parse_strata(loaded.config.model.strata)


@torch.no_grad()
def requested_capacity(loaded: LoadedModel, request: Request, name: str) -> CapacityReport:
    """Read the split's references with teacher forcing, and count. Tag and </s> count as tokens, padding does not.

    Raises UserError for a model without strata, and for an unknown split or direction.
    """
    strata = require_strata(loaded)
    model, task = loaded.model, loaded.task
    directions = choose_directions(task, request.split, request.directions)
    texts = [read_text(task, request.split, direction, request.limit) for direction in directions]
    visits = VisitCounts(blocks_of(model), len(strata))
    load = ExpertLoad(visits.blocks)
    with progress_bar(sum(len(text.sources) for text in texts), f"{name}: reading") as bar:
        for text in texts:
            bar.set_postfix_str(text.direction)
            for net_input in forced_batches(task, model, text, request.max_tokens):
                _, extra = model(**net_input)
                routings = routings_of(extra)
                visits.add(text.direction, routings)
                load.add(text.direction, routings)
                bar.update(len(net_input["src_lengths"]))
    details = {
        "name": name,
        "checkpoint": str(loaded.checkpoint.absolute()),
        "updates": loaded.updates,
        "model": "SMoE-" + "-".join(map(str, strata)),
        "split": request.split,
        "limit": request.limit,
        "sentences": {text.direction: len(text.sources) for text in texts},
    }
    return CapacityReport(visits, load, details)
