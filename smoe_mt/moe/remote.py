"""The experts of a block for one pass, here or on other ranks, behind one interface.

Another rank's experts are reached by the exchange of ``parallel``: rows go out, are computed where their experts live, and
come back. Without ``spread`` there is no exchange, and blocks cannot tell the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.moe.backends import ReadyExperts, compute_dtype, ready_local
from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.parallel import (
    NO_BLOCK,
    Arrive,
    Combine,
    ExpertRanks,
    Gather,
    Leg,
    Route,
    Start,
    Trip,
    Words,
    expert_major,
    wait,
)


def ready_experts(experts: Experts, x: Tensor, backend: str, dropout: float = 0.0) -> AnyExperts:
    """Get ``experts`` ready for one pass of ``x`` through their block; ``dropout`` as it applies now.

    Raises:
        ValueError: ``grouped`` where it cannot compute.
    """
    dtype = compute_dtype(x)
    if experts.ranks is None:
        return ready_local(experts, dtype, backend, dropout)
    return RemoteExperts(experts.ranks, ready_local(experts, dtype, backend), backend, dropout)


@dataclass(frozen=True)
class RemoteExperts:
    """The experts of a block for one pass, wherever they live; called as ``ReadyExperts`` is.

    Every rank of the group has to come to every gate, with or without tokens.
    """

    ranks: ExpertRanks
    local: ReadyExperts
    backend: str
    dropout: float
    on_device: bool = False
    skips_empty_gates: bool = False

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] FFN_e(x) over the served slots (eq. 6); plan's expert 0 is ``first_expert``; [T, D]."""
        x_TD = x_TD.to(self.local.weights[0].dtype)
        grad = torch.is_grad_enabled()
        route = Route.of(self.ranks, self.local.experts.num_experts, first_expert, self.ranks.chunks if grad else 1)
        plan, rows_RL = route.reorder(plan)
        drop_SD = None
        if self.dropout:
            drop_SD = F.dropout(x_TD.new_ones(plan.slot_S.numel(), x_TD.size(1)), self.dropout)
        rows_SD = Gather.apply(x_TD, plan)
        words = self.ranks.talk(self.local.experts.block, rows_RL, x_TD.dtype, x_TD.device)
        out_SD = (
            self._there_and_back(rows_SD, route, words) if grad else _answer(self.ranks, rows_SD, words, self.backend)
        )
        if drop_SD is not None:
            out_SD = out_SD * drop_SD
        return Combine.apply(out_SD, weights_TK, plan)

    def _there_and_back(self, rows_SD: Tensor, route: Route, words: Words) -> Tensor:
        """Training: part by part, the next one on its way while one is computed; [S, D]."""
        if set(words.blocks) != {self.local.experts.block}:
            raise RuntimeError(f"ranks that share experts are at different blocks of the model: {words.blocks}")
        out = [Leg(trip) for trip in route.trips(words, self.ranks)]
        back = [Leg(leg.trip.reversed()) for leg in out]
        leaving = [Start.apply(rows, leg) for rows, leg in zip(rows_SD.split([leg.trip.leaving for leg in out]), out)]
        returning = []
        for pending, leg, way_back in zip(leaving, out, back):
            y = compute(self.local, Arrive.apply(pending, leg), leg.trip.heard_RL, leg.trip.experts.start)
            returning.append(Start.apply(y, way_back))
        home = [Arrive.apply(pending, leg) for pending, leg in zip(returning, back)]
        return home[0] if len(home) == 1 else torch.cat(home)


AnyExperts = ReadyExperts | RemoteExperts


@torch.no_grad()
def serve(ranks: ExpertRanks, backend: str = "auto") -> None:
    """Join the exchanges of ranks that still translate; returns on all ranks when all have come here."""
    if not ranks.blocks:
        return
    w_in = ranks.blocks[0].w_in
    while True:
        words = ranks.talk(NO_BLOCK, torch.zeros(ranks.size, 0, dtype=torch.long), w_in.dtype, w_in.device)
        if words.over:
            return
        _answer(ranks, w_in.new_empty(0, w_in.size(-1), dtype=words.dtype), words, backend)


def _answer(ranks: ExpertRanks, rows_SD: Tensor, words: Words, backend: str) -> Tensor:
    """Without gradients: send rows, compute what comes, each with the block that its sender is at, and take rows back."""
    trip = Trip.of(words.told_RL, words.heard_RL, range(words.heard_RL.size(1)), ranks.group.group_name)
    parts = list(wait(trip.start(rows_SD)).split(trip.received))
    for number in sorted(set(words.blocks) - {NO_BLOCK}):
        senders = [rank for rank, block in enumerate(words.blocks) if block == number]
        local = ready_local(ranks.blocks[number], rows_SD.dtype, backend)
        y = compute(local, torch.cat([parts[rank] for rank in senders]), words.heard_RL[senders], 0)
        for rank, part in zip(senders, y.split([trip.received[rank] for rank in senders])):
            parts[rank] = part
    return wait(trip.reversed().start(torch.cat(parts)))


def compute(local: ReadyExperts, rows_SD: Tensor, rows_RL: Tensor, first: int) -> Tensor:
    """FFN_e of rows that came from ranks R for this rank's experts L, ``first`` and up, sorted by rank, then expert."""
    rows_RL = rows_RL[:, : local.weights[0].size(0) - first]
    order = expert_major(rows_RL).to(rows_SD.device)
    rank_of = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    served_E = rows_RL.sum(dim=0).to(order.device)
    plan = Plan(order, order, rank_of[:, None], None, served_E, served_E)
    ones = rows_SD.new_ones(rows_SD.size(0), 1, dtype=torch.promote_types(rows_SD.dtype, torch.float32))
    return local(rows_SD, ones, plan, first)
