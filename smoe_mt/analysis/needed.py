"""Needed capacity: what log-probability a model's tokens lose or gain where they must make fewer or more visits.

Requested capacity says how many strata a gate sends a token to; this says what those are worth. The model reads references
(teacher forcing) once as it is and once for each number of visits that is forced on all tokens of encoder, decoder or both
(`ForcedVisits`), in all blocks together. What a single token would lose by itself is not measured: its neighbours change too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smoe_mt.analysis.capacity import Request, strata_of, sub_tokens_of
from smoe_mt.analysis.forced import ForcedBatch, direction_texts, forced_batches
from smoe_mt.analysis.frequency import FrequencyRanks
from smoe_mt.analysis.visits import routings_of
from smoe_mt.errors import UserError
from smoe_mt.evaluation.selection import choose_directions
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.moe import SYSTEMS, ForcedVisits, routing_override
from smoe_mt.moe.names import SIDES, Block, module_of
from smoe_mt.moe.routers.base import routers_of
from smoe_mt.progress import progress_bar

FORMAT = 1
BOTH = "both"
#: Upper ends of the frequency classes, by rank in the target language's training text.
RANKS = (10, 100, 1000)
RANK_NAMES = ("1-10", "11-100", "101-1,000", "above 1,000")


@dataclass(frozen=True)
class Forcing:
    """`visits` of every token in all blocks of `side`: encoder, decoder or both."""

    side: str
    visits: int

    def __str__(self) -> str:
        return f"{self.side}: {self.visits}"


@dataclass
class NeededCapacity:
    """Sums over target tokens, by direction and frequency class: float64 [directions, classes].

    visits  by side, what the tokens' positions request, mean over the side's blocks: of the decoder the position that predicts
            the token; of the encoder the mean over the source sentence. Where parts of a token walk on their own, the mean of
            theirs: forced visits are those of each part, too
    lost    by forcing, log-probability as the model is less that of the forced pass, in nats: above 0 the forced visits cost
    """

    directions: tuple[str, ...]
    strata: int
    tokens: np.ndarray
    logprob: np.ndarray
    visits: dict[str, np.ndarray]
    lost: dict[Forcing, np.ndarray]
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content of needed_capacity.json: means over tokens, of each direction, each class, and each class of each direction."""
        rows: dict[str, tuple[Any, ...]] = {"all": (slice(None), slice(None))}
        by_direction = {name: (place, slice(None)) for place, name in enumerate(self.directions)}
        by_rank = {name: (slice(None), place) for place, name in enumerate(RANK_NAMES)}
        return {
            "format": FORMAT,
            **self.details,
            "strata": self.strata,
            "all": self._means(rows["all"]),
            "directions": {name: self._means(where) for name, where in by_direction.items()},
            "frequency_ranks": {name: self._means(where) for name, where in by_rank.items()},
            "both": {
                name: {rank: self._means((place, column)) for column, rank in enumerate(RANK_NAMES)}
                for place, name in enumerate(self.directions)
            },
        }

    def _means(self, where: tuple[Any, ...]) -> dict[str, Any]:
        tokens = float(self.tokens[where].sum())
        mean = (lambda sums: float(sums[where].sum()) / tokens) if tokens else (lambda sums: None)
        return {
            "tokens": int(tokens),
            "logprob": mean(self.logprob),
            "requested": {side: mean(sums) for side, sums in self.visits.items()},
            "lost": {str(forcing): mean(sums) for forcing, sums in self.lost.items()},
        }


def check_visits_vary(loaded: LoadedModel) -> None:
    """UserError for a model without strata, whose tokens all make as many visits."""
    if not SYSTEMS[str(loaded.config.model.moe)].nested or max(map(len, strata_of(loaded).values())) < 2:
        raise UserError(
            f"{loaded.checkpoint}: needed capacity is asked of models with strata: visits of others never vary"
        )


@torch.no_grad()
def needed_capacity(loaded: LoadedModel, request: Request, ranks: FrequencyRanks, name: str) -> NeededCapacity:
    """Read the split's references as often as there are forcings. UserError for a model without strata, and for an unknown
    split or direction."""
    check_visits_vary(loaded)
    strata = strata_of(loaded)
    model, task = loaded.model, loaded.task
    directions = choose_directions(task, request.split, request.directions)
    texts = direction_texts(task, request.split, directions)
    most = max(map(len, strata.values()))
    forcings = [Forcing(side, visits) for side in (*SIDES, BOTH) for visits in range(1, most + 1)]
    shape = (len(directions), len(RANK_NAMES))
    found = NeededCapacity(
        *(directions, most, np.zeros(shape), np.zeros(shape)),
        visits={side: np.zeros(shape) for side in SIDES},
        lost={forcing: np.zeros(shape) for forcing in forcings},
        details={"name": name, "split": request.split, "limit": request.limit, "updates": loaded.updates},
    )
    blocks = {block: module_of(model, block) for block in strata}
    parts = sub_tokens_of(loaded)
    with progress_bar(sum(min(len(text), request.limit or len(text)) for text in texts), f"{name}: forcing") as bar:
        for place, text in enumerate(texts):
            rank_of = torch.from_numpy(ranks.of(text.name.split("-")[1]))
            for batch in forced_batches(task, model, text, request.limit, request.max_tokens):
                _read(model, blocks, strata, parts, batch, rank_of, task.dictionary.pad(), found, place)
                bar.update(len(batch.lines))
    return found


def _read(
    model: Any,
    blocks: dict[Block, nn.Module],
    strata: dict[Block, tuple[int, ...]],
    parts: int,
    batch: ForcedBatch,
    rank_of: Tensor,
    pad: int,
    found: NeededCapacity,
    place: int,
) -> None:
    """Add a batch of direction number `place`; `parts`: the sub-tokens of a token."""
    real = batch.target != pad
    classes = torch.bucketize(
        rank_of.to(batch.target.device)[batch.target[real]], torch.tensor(RANKS, device=real.device)
    )

    def add(sums: np.ndarray, values: Tensor) -> None:
        into = torch.zeros(len(RANK_NAMES), dtype=torch.float64, device=values.device)
        sums[place] += into.index_add_(0, classes, values.double()).cpu().numpy()

    output, extra = model(**batch.net_input)
    plain = _logprobs(output, batch.target)[real]
    add(found.tokens, torch.ones_like(plain))
    add(found.logprob, plain)
    for side, visits in _visits(blocks, routings_of(extra), real).items():
        add(found.visits[side], visits / parts)
    for forcing, sums in found.lost.items():
        with forced(blocks, strata, forcing):
            output, _ = model(**batch.net_input)
        add(sums, plain - _logprobs(output, batch.target)[real])


@contextmanager
def forced(blocks: dict[Block, nn.Module], strata: dict[Block, tuple[int, ...]], forcing: Forcing) -> Iterator[None]:
    """While this is open, tokens make `forcing.visits` visits in the blocks of its side; where a block has fewer strata, all."""
    with ExitStack() as stack:
        for block, module in blocks.items():
            if forcing.side in (block.side, BOTH):
                selection = ForcedVisits(strata[block], min(forcing.visits, len(strata[block])), _choices(module))
                stack.enter_context(routing_override(module, selection=selection))
        yield


def _choices(block: nn.Module) -> int:
    """Experts a visit, as the block was trained; 1 where their number varies. The gates may lie deeper, below shared experts or
    projections."""
    gate, *_ = routers_of(block)
    return int(getattr(gate.selection, "k", 1))


def _visits(blocks: dict[Block, nn.Module], routings: Sequence[Any], real: Tensor) -> dict[str, Tensor]:
    """By side, mean requested visits of each target token; [tokens]."""
    by_side: dict[str, list[Tensor]] = {}
    for block, routing in zip(blocks, routings, strict=True):
        by_side.setdefault(block.side, []).append(routing.visits.double())
    found = {}
    for side, visits in by_side.items():
        mean_BT = torch.stack(visits).mean(0)
        if side == "encoder":
            read = torch.stack(visits)[0] > 0
            mean_B = mean_BT.sum(1) / read.sum(1)
            found[side] = mean_B[:, None].expand(real.shape)[real]
        else:
            found[side] = mean_BT[real]
    return found


def _logprobs(output: Tensor, target: Tensor) -> Tensor:
    """Of the target tokens, in nats; float32 [B, T]."""
    return output.float().log_softmax(-1).gather(2, target[..., None]).squeeze(2)
