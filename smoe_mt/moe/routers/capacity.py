"""The capacity dial: a trained stratified block that spends more or less on its tokens, without another training.

Both selections stand around a block's own one (or around another that replaces it) and change which strata a token visits.
Weights of the chosen experts stay those of the unchanged probabilities. What happens to a token depends on itself alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from smoe_mt.moe.routers.base import Choices, Selection, select, takes_order
from smoe_mt.moe.strata import parse_strata, visible_experts


@dataclass(frozen=True)
class BiasedStrata:
    """``selection`` with a bias against strata further on: the logit of an expert n strata after the gate's own falls by
    ``bias`` * n.

    Above 0 tokens are drawn to the nearest stratum, and visit more of them; below 0 they skip to the last one. 0 changes nothing.
    For ``routing_override`` of one block.

    Raises:
        ValueError: strata that are none.
    """

    strata: Sequence[int]
    bias: float
    selection: Selection

    def __post_init__(self) -> None:
        parse_strata(self.strata)

    @property
    def takes_order(self) -> bool:
        return takes_order(self.selection)

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        if not self.bias:
            return select(self.selection, probs_TE, may_sync, order_TE)
        # In float64: a large bias must not make all of the far experts 0, and so alike.
        change_E = self._ahead(probs_TE.size(1), probs_TE.device) * -self.bias
        weighed_TE = probs_TE.double() * (change_E - change_E.max()).exp()
        weighed_TE = weighed_TE / weighed_TE.sum(dim=1, keepdim=True)
        if order_TE is not None:
            order_TE = weighed_TE + (order_TE - probs_TE)
        return select(self.selection, weighed_TE, may_sync, order_TE)

    def check(self, visible: int, where: str) -> None:
        _check_gate(visible, self.strata, where)
        self.selection.check(visible, where)

    def _ahead(self, visible: int, device: torch.device) -> Tensor:
        """How many strata after the gate's own each expert lies that it sees: float64 [E].

        Made on the device: a copy from the host cannot be captured as a graph.
        """
        strata = parse_strata(self.strata)
        gate = visible_experts(strata).index(visible)
        expert_E = torch.arange(visible, device=device)
        ahead_E = torch.zeros(visible, dtype=torch.float64, device=device)
        for begin in accumulate(strata[gate:-1]):
            ahead_E += expert_E >= begin
        return ahead_E


@dataclass(frozen=True)
class MostVisits:
    """``selection`` of which no token makes more than ``most`` visits: the gates from number ``most`` on, counted from 1,
    choose among the experts of the last stratum alone.

    A token that has skipped a stratum before may make fewer than it would have been allowed. As many visits as strata, or
    more, change nothing. For ``routing_override`` of one block.

    Raises:
        ValueError: fewer than 1 visit.
    """

    strata: Sequence[int]
    most: int
    selection: Selection

    def __post_init__(self) -> None:
        parse_strata(self.strata)
        if self.most < 1:
            raise ValueError(f"a token makes at least 1 visit, not {self.most}")

    @property
    def takes_order(self) -> bool:
        return takes_order(self.selection)

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        strata, visible = parse_strata(self.strata), probs_TE.size(1)
        first = visible - strata[-1]
        if visible_experts(strata).index(visible) < self.most - 1 or not first:
            return select(self.selection, probs_TE, may_sync, order_TE)
        last_TE = probs_TE[:, first:]
        tiny = torch.finfo(last_TE.dtype).tiny
        last_TE = last_TE / last_TE.sum(dim=1, keepdim=True).clamp(min=tiny)
        found = select(self.selection, last_TE, may_sync, None if order_TE is None else order_TE[:, first:])
        # "No choice" is the number of experts: it stays that.
        return found._replace(experts_TK=found.experts_TK + first, lead_T=found.lead_T + first)

    def check(self, visible: int, where: str) -> None:
        _check_gate(visible, self.strata, where)
        self.selection.check(parse_strata(self.strata)[-1], where)


def _check_gate(visible: int, strata: Sequence[int], where: str) -> None:
    if visible not in visible_experts(parse_strata(strata)):
        raise ValueError(f"{where} sees {visible} experts, which is no gate of strata {parse_strata(strata)}")
