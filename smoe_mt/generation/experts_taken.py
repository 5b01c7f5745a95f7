"""Which experts served each token: the choices of a model's gates, put together along each token's way through a block."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe import SYSTEMS, Router
from smoe_mt.moe.names import Block, groups_of_blocks, module_of
from smoe_mt.moe.routers.base import Choices, routers_of

#: The experts of each visit of a piece to a block, numbered from 1 there.
PieceExperts = tuple[tuple[int, ...], ...]


class Listener:
    """While it is entered, the gates of a model tell it their choices. One listener at a time: hold the model's lock."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._groups = groups_of_blocks(model)
        self._routers = {block: routers_of(module_of(model, block)) for block in self._groups}
        self._heard: dict[Router, Choices] = {}

    def __enter__(self) -> Listener:  # noqa: PYI034 - typing has no Self in Python 3.10
        for routers in self._routers.values():
            for router in routers:
                router.listener = lambda choices, router=router: self._heard.__setitem__(router, choices)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for routers in self._routers.values():
            for router in routers:
                router.listener = None

    def forget(self) -> None:
        """Forget the last pass. Between two passes: a gate that no token reaches tells nothing."""
        self._heard.clear()

    def experts_of_pieces(self, block: Block, lengths: Sequence[int]) -> list[tuple[PieceExperts, ...]]:
        """Of the last pass of a batch with sequences of these lengths (padding after or before them is skipped by the
        block), the experts of each piece; [] for a block whose gates are not those of its groups.
        """
        system, settings = SYSTEMS[str(self.model.cfg.moe)], vars(self.model.cfg)
        groups, routers = self._groups[block], self._routers[block]
        if len(routers) != len(groups) or not self._heard:
            return []
        parts = system.sub_tokens(settings)
        told = [self._heard.get(router) for router in routers]
        rows = experts_of_rows(told, groups, system.nested, active_rows(lengths).repeat_interleave(parts))
        places = iter(range(0, len(rows), parts))
        found: list[tuple[PieceExperts, ...]] = []
        for length in lengths:
            mine = [next(places) for _ in range(max(lengths))][:length]
            found.append(tuple(tuple(visit for part in rows[at : at + parts] for visit in part) for at in mine))
        return found


def active_rows(lengths: Sequence[int]) -> Tensor:
    """Which positions of a batch that is padded on the right hold a token; bool [B * T]."""
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).reshape(-1)


def experts_of_rows(
    told: Sequence[Choices | None], groups: Sequence[int], nested: bool, active_N: Tensor
) -> list[PieceExperts]:
    """The experts of each visit of each row, from the choices of each gate (None: of a gate that no row reached).

    groups   experts of each gate's own stratum or layer
    nested   a gate sees later strata, too, and the leading expert decides which gate comes next; else rows pass all gates
    active_N bool [N], the rows that are tokens. A gate may have been told those at it alone, or all N
    """
    next_gate = torch.tensor([gate + 1 for gate, size in enumerate(groups) for _ in range(size)])
    at_N = torch.where(active_N, 0, len(groups))
    found: list[list[tuple[int, ...]]] = [[] for _ in range(len(active_N))]
    for gate, choices in enumerate(told):
        here = (at_N == gate if nested else active_N).nonzero().squeeze(1)
        if choices is None or not len(here):
            continue
        experts_TK, lead_T = choices.experts_TK.cpu(), choices.lead_T.cpu()
        if len(experts_TK) != len(here):
            experts_TK, lead_T = experts_TK[here], lead_T[here]
        first, visible = sum(groups[:gate]), sum(groups[gate:]) if nested else groups[gate]
        for row, chosen in zip(here.tolist(), experts_TK.tolist()):
            found[row].append(tuple(first + expert + 1 for expert in chosen if expert < visible))
        if nested:
            at_N[here] = next_gate[first + lead_T]
    return [tuple(visits) for visits in found]
