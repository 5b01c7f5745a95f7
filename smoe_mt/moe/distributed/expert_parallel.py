"""Experts that are sharded over ranks, behind the interface of ``kernels.select``.

Rows go out, are computed where their experts live, and come back. In training all ranks are at the same block, and the backward
pass goes through the same exchanges in the opposite order. Without gradients each may be at a block of its own: rows are told
apart by their sender's block. A rank that has nothing left to translate keeps joining the exchanges of the others (``serve``), so
that nobody waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.dispatch import Combine, Gather, Plan
from smoe_mt.moe.distributed.all_to_all import AllToAllSplit, AllToAllStart, AllToAllWait, PendingExchange, wait
from smoe_mt.moe.distributed.exchange import Route, expert_major
from smoe_mt.moe.distributed.placement import NO_BLOCK, CountExchange, ExpertRanks
from smoe_mt.moe.experts.base import BoundExperts, ExpertBank
from smoe_mt.moe.kernels.select import bind_local


@dataclass(frozen=True)
class ShardedOverRanks:
    """How a bank reaches its experts on other ranks; ``block``: its number, the same on all ranks."""

    ranks: ExpertRanks
    block: int

    def bind(self, bank: ExpertBank, dtype: torch.dtype, backend: str, dropout: float) -> RemoteExperts:
        return RemoteExperts(self, bank, bind_local(bank, dtype, backend), dtype, backend, dropout)


def shard(bank: ExpertBank, ranks: ExpertRanks) -> None:
    """Keep this rank's experts alone, and reach the others from now on. All ranks shard their banks in the same order.

    Raises:
        ValueError: more ranks than experts.
    """
    if ranks.size > bank.num_experts:
        raise ValueError(f"{bank.num_experts} experts cannot be spread over {ranks.size} ranks: some would have none")
    bank.keep(ranks.local_experts(bank.num_experts), ShardedOverRanks(ranks, ranks.join(bank)))


def shard_experts(model: nn.Module, ranks: ExpertRanks) -> list[ExpertBank]:
    """``shard`` for all banks of a model or block; returns them."""
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    for bank in banks:
        shard(bank, ranks)
    return banks


def ranks_of(model: nn.Module) -> ExpertRanks | None:
    """The ranks that share a model's experts; None where they are all here."""
    remotes = (module.remote for module in model.modules() if isinstance(module, ExpertBank))
    return next((remote.ranks for remote in remotes if isinstance(remote, ShardedOverRanks)), None)


@dataclass(frozen=True)
class RemoteExperts:
    """The experts of a block for one pass, wherever they live; called as local ones are.

    Every rank of the group has to come to every gate, with or without tokens.
    """

    sharded: ShardedOverRanks
    bank: ExpertBank
    local: BoundExperts
    dtype: torch.dtype
    backend: str
    dropout: float
    never_syncs: bool = False
    skips_empty_gates: bool = False

    @property
    def kernel(self) -> str:
        """That of the local experts."""
        return self.local.kernel

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] expert(x) over the served slots (eq. 6); plan's expert 0 is ``first_expert``; [T, D]."""
        x_TD, ranks = x_TD.to(self.dtype), self.sharded.ranks
        grad = torch.is_grad_enabled()
        route = Route.of(ranks, self.bank.num_experts, first_expert, ranks.chunks if grad else 1)
        plan, rows_RL = route.reorder(plan)
        drop_SD = None
        if self.dropout:
            drop_SD = F.dropout(x_TD.new_ones(plan.slot_S.numel(), x_TD.size(1)), self.dropout)
        rows_SD = Gather.apply(x_TD, plan)
        counts = ranks.exchange_counts(self.sharded.block, rows_RL, x_TD.dtype, x_TD.device)
        out_SD = (
            self._dispatch_compute_combine(rows_SD, route, counts)
            if grad
            else _serve_exchange(ranks, rows_SD, counts, self.backend)
        )
        if drop_SD is not None:
            out_SD = out_SD * drop_SD
        y_TD: Tensor = Combine.apply(out_SD, weights_TK, plan)
        return y_TD

    def _dispatch_compute_combine(self, rows_SD: Tensor, route: Route, counts: CountExchange) -> Tensor:
        """Training: part by part, the next one on its way while one is computed; [S, D]."""
        if set(counts.blocks) != {self.sharded.block}:
            raise RuntimeError(f"ranks that share experts are at different blocks of the model: {counts.blocks}")
        out = [PendingExchange(split) for split in route.splits(counts, self.sharded.ranks)]
        back = [PendingExchange(each.split.reversed()) for each in out]
        parts = rows_SD.split([each.split.leaving for each in out])
        leaving = [AllToAllStart.apply(rows, each) for rows, each in zip(parts, out)]
        returning = []
        for pending, there, way_back in zip(leaving, out, back):
            arrived = AllToAllWait.apply(pending, there)
            y = compute(self.bank, self.local, arrived, there.split.receive_RL, there.split.experts.start)
            returning.append(AllToAllStart.apply(y, way_back))
        home: list[Tensor] = [AllToAllWait.apply(pending, each) for pending, each in zip(returning, back)]
        return home[0] if len(home) == 1 else torch.cat(home)


@torch.no_grad()
def serve(ranks: ExpertRanks, backend: str = "auto") -> None:
    """Join the exchanges of ranks that still translate; returns on all ranks when all have come here."""
    if not ranks.blocks:
        return
    weight = next(ranks.blocks[0].parameters())
    while True:
        counts = ranks.exchange_counts(
            NO_BLOCK, torch.zeros(ranks.size, 0, dtype=torch.long), weight.dtype, weight.device
        )
        if counts.all_done:
            return
        _serve_exchange(ranks, weight.new_empty(0, ranks.blocks[0].embed_dim, dtype=counts.dtype), counts, backend)


def _serve_exchange(ranks: ExpertRanks, rows_SD: Tensor, counts: CountExchange, backend: str) -> Tensor:
    """Without gradients: send rows, compute what comes, each with the block that its sender is at, and take rows back."""
    split = AllToAllSplit.of(
        counts.send_RL, counts.receive_RL, range(counts.receive_RL.size(1)), ranks.group.group_name
    )
    parts = list(wait(split.start(rows_SD)).split(split.received))
    for number in sorted(set(counts.blocks) - {NO_BLOCK}):
        senders = [rank for rank, block in enumerate(counts.blocks) if block == number]
        bank = ranks.blocks[number]
        local = bind_local(bank, rows_SD.dtype, backend)
        y = compute(bank, local, torch.cat([parts[rank] for rank in senders]), counts.receive_RL[senders], 0)
        for rank, part in zip(senders, y.split([split.received[rank] for rank in senders])):
            parts[rank] = part
    return wait(split.reversed().start(torch.cat(parts)))


def compute(bank: ExpertBank, local: BoundExperts, rows_SD: Tensor, rows_RL: Tensor, first: int) -> Tensor:
    """The experts' outputs for rows that came from ranks R for this rank's experts L, ``first`` and up, sorted by rank, then expert."""
    rows_RL = rows_RL[:, : len(bank.local_experts or ()) - first]
    order = expert_major(rows_RL).to(rows_SD.device)
    rank_of = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    served_E = rows_RL.sum(dim=0).to(order.device)
    plan = Plan(order, order, rank_of[:, None], None, served_E, served_E)
    ones = rows_SD.new_ones(rows_SD.size(0), 1, dtype=torch.promote_types(rows_SD.dtype, torch.float32))
    return local(rows_SD, ones, plan, first)
