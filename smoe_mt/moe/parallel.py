"""Experts spread over ranks: expert e of a block lives on rank e mod n, and tokens travel to it and back by all-to-all.

Dealt out in turn, so that every stratum is spread over all ranks. In runs of consecutive experts, all tokens of the last
stratum would meet on the last ranks, and SMoE-4-4-4-4 on 4 ranks would wait for one that has twice its share of the work.

An exchange begins with a word to each rank: which block this one is at and how many rows it sends to each expert.

In training all ranks are at the same block, and go back through the same exchanges in the opposite order. Without gradients
each may be at a block of its own: rows are told apart by their sender's block. A rank that has nothing left to translate
keeps joining the exchanges of the others (``serve``), so that nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from smoe_mt.moe.dispatch import Plan, of_slots, of_tokens, sum_rows

if TYPE_CHECKING:
    from smoe_mt.moe.experts import Experts

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NO_BLOCK = -1  # in place of a block's number: nothing to send, and nothing more to come
MESH_DIMENSIONS = ("replica", "expert")


class ExpertRanks:
    """The ranks that share out the experts of a model: dimension "expert" of a mesh.

    mesh    dimensions "replica" (ranks that hold the same experts) and "expert", as ``expert_mesh`` makes it
    chunks  in training, experts are exchanged and computed in so many parts: while one part is computed, the tokens of the
            next are on their way. 1: no overlap
    """

    def __init__(self, mesh: DeviceMesh, chunks: int = 1) -> None:
        self.mesh = mesh
        self.chunks = chunks
        self.group = mesh["expert"].get_group()
        self.size: int = self.group.size()
        self.rank: int = self.group.rank()
        self.blocks: list[Experts] = []  # this rank's part of each

    def __deepcopy__(self, _memo: dict[int, Any]) -> ExpertRanks:
        raise TypeError("a model whose experts are spread over ranks cannot be copied")

    def mine(self, num_experts: int) -> list[int]:
        """This rank's experts of a block, in order; its n-th one is number ``rank + n * size`` of the block."""
        return list(range(self.rank, num_experts, self.size))

    def join(self, experts: Experts) -> int:
        """Take part in the exchanges; returns the number of the block. All ranks let theirs join in the same order."""
        self.blocks.append(experts)
        return len(self.blocks) - 1

    def _most_experts(self) -> int:
        """Experts that a rank has of any block, at most."""
        return max(-(-block.num_experts // self.size) for block in self.blocks)

    def talk(self, block: int, rows_RL: Tensor, dtype: torch.dtype, device: torch.device) -> Words:
        """Tell each rank R how many rows its experts L get, int64 [R, L]; hear the same of them. Waits for all."""
        told = torch.zeros(self.size, 2 + self._most_experts(), dtype=torch.long)
        told[:, 0], told[:, 1] = block, DTYPES.index(dtype)
        told[:, 2 : 2 + rows_RL.size(1)] = rows_RL
        one_each = [1] * self.size
        heard = wait(start(told.to(device), one_each, one_each, self.group.group_name)).cpu()
        spoke = heard[heard[:, 0] != NO_BLOCK, 1].tolist()
        return Words(told[:, 2:], heard[:, 0].tolist(), heard[:, 2:], DTYPES[spoke[0]] if spoke else dtype)


@dataclass(frozen=True)
class Words:
    """What was said before an exchange.

    told_RL   int64 [R, L], rows for the experts L of each rank R
    blocks    the block that each rank is at
    heard_RL  int64 [R, L], rows from each rank for the experts here
    dtype     of the rows
    """

    told_RL: Tensor
    blocks: list[int]
    heard_RL: Tensor
    dtype: torch.dtype

    @property
    def over(self) -> bool:
        """Nobody has anything more to send."""
        return all(block == NO_BLOCK for block in self.blocks)


def expert_mesh(expert_parallel_size: int, device_type: str) -> DeviceMesh:
    """All ranks as [replica, expert]: neighbours share experts, which are exchanged most often.

    Raises:
        ValueError: a size that does not divide the ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh

    ranks = torch.distributed.get_world_size()
    if ranks % expert_parallel_size:
        raise ValueError(f"{ranks} ranks are no multiple of {expert_parallel_size}, the ranks that share experts")
    shape = (ranks // expert_parallel_size, expert_parallel_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=MESH_DIMENSIONS)


def expert_major(rows_RL: Tensor) -> Tensor:
    """Rows lie by rank, then expert: their places by expert, then rank; int64 [S]. rows_RL int64 [R, L] counts them."""
    lengths_RL = rows_RL.reshape(-1)
    begins_RL = (lengths_RL.cumsum(0) - lengths_RL).view_as(rows_RL)
    lengths = rows_RL.t().reshape(-1)
    shift = begins_RL.t().reshape(-1) - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)


# --- which rows go where ---


@dataclass(frozen=True)
class Route:
    """The order in which a gate's rows leave: by part, then rank, then expert.

    visible  for each rank, the numbers that it has given the experts that the gate sees
    """

    size: int
    first_expert: int
    chunks: int
    visible: tuple[range, ...]

    @classmethod
    def of(cls, ranks: ExpertRanks, num_experts: int, first_expert: int, chunks: int) -> Route:
        visible = []
        for rank in range(ranks.size):
            own = range(rank, num_experts, ranks.size)
            visible.append(range(sum(e < first_expert for e in own), len(own)))
        return cls(ranks.size, first_expert, chunks, tuple(visible))

    def part(self, rank: int, chunk: int) -> range:
        """The experts of a rank, by its own numbers, that belong to a part."""
        seen = self.visible[rank]
        ends = [seen.start + len(seen) * i // self.chunks for i in (chunk, chunk + 1)]
        return range(*ends)

    def reorder(self, plan: Plan) -> tuple[Plan, Tensor]:
        """The plan with its rows in leaving order, and rows for the experts L of each rank R, int64 [R, L]."""
        counts = plan.served_E.tolist()
        ends = list(accumulate(counts))
        rows_RL = torch.zeros(self.size, max(seen.stop for seen in self.visible), dtype=torch.long)
        pieces = []
        for chunk in range(self.chunks):
            for rank in range(self.size):
                for own in self.part(rank, chunk):
                    e = rank + own * self.size - self.first_expert
                    rows_RL[rank, own] = counts[e]
                    pieces.append(torch.arange(ends[e] - counts[e], ends[e]))
        order = torch.cat(pieces).to(plan.slot_S.device)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        row_TK = place[plan.row_TK] if order.numel() else plan.row_TK
        return replace(plan, slot_S=plan.slot_S[order], token_S=plan.token_S[order], row_TK=row_TK), rows_RL

    def trips(self, words: Words, ranks: ExpertRanks) -> list[Trip]:
        """A trip for each part."""
        trips = []
        for chunk in range(self.chunks):
            mine = self.part(ranks.rank, chunk)
            leaving = [words.told_RL[rank, self._columns(rank, chunk)].sum() for rank in range(self.size)]
            told_R1 = torch.stack(leaving)[:, None]
            trips.append(Trip.of(told_R1, words.heard_RL[:, mine.start : mine.stop], mine, ranks.group.group_name))
        return trips

    def _columns(self, rank: int, chunk: int) -> slice:
        part = self.part(rank, chunk)
        return slice(part.start, part.stop)


@dataclass(frozen=True)
class Trip:
    """One all-to-all: rows to and from each rank; of those that come, how many are for each of the ``experts`` here."""

    sent: list[int]
    received: list[int]
    heard_RL: Tensor
    experts: range
    group_name: str

    @classmethod
    def of(cls, told_RL: Tensor, heard_RL: Tensor, experts: range, group_name: str) -> Trip:
        return cls(told_RL.sum(dim=1).tolist(), heard_RL.sum(dim=1).tolist(), heard_RL, experts, group_name)

    @property
    def leaving(self) -> int:
        return sum(self.sent)

    def reversed(self) -> Trip:
        """The way back."""
        return replace(self, sent=self.received, received=self.sent)

    def start(self, rows_SD: Tensor) -> Tensor:
        """Send the rows off; what comes is there after ``wait``."""
        return start(rows_SD, self.received, self.sent, self.group_name)


# --- the exchange, with gradients ---


def start(rows: Tensor, received: Sequence[int], sent: Sequence[int], group_name: str) -> Tensor:
    """An all-to-all along the first dimension that goes on by itself until ``wait``."""
    return torch.ops._c10d_functional.all_to_all_single(rows.contiguous(), list(received), list(sent), group_name)


def wait(pending: Tensor) -> Tensor:
    """What ``start`` returned, with its rows in it."""
    return torch.ops._c10d_functional.wait_tensor(pending)


class Leg:
    """A trip and, going back, the gradients that are on their way: what they become has another number of rows, so that it
    cannot be handed over as a gradient."""

    def __init__(self, trip: Trip) -> None:
        self.trip = trip
        self.returning: Tensor | None = None


class Start(torch.autograd.Function):
    """Sends rows off. Going back, their gradients have been sent by ``Arrive``: wait for them."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, leg: Leg) -> Tensor:
        ctx.leg = leg
        return leg.trip.start(rows_SD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _placeholder: Tensor) -> tuple[Tensor, None]:
        pending, ctx.leg.returning = ctx.leg.returning, None
        return wait(pending), None


class Arrive(torch.autograd.Function):
    """Waits for rows. Going back, sends their gradients off, for ``Start`` to wait for."""

    @staticmethod
    def forward(ctx: Any, pending: Tensor, leg: Leg) -> Tensor:
        ctx.leg = leg
        return wait(pending).view_as(pending)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        ctx.leg.returning = ctx.leg.trip.reversed().start(grad_SD)
        return grad_SD, None


class Gather(torch.autograd.Function):
    """The rows of a plan, [S, D]. Both ways are gathers, as in the backends."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return x_TD.index_select(0, plan.token_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        return sum_rows(grad_SD, ctx.plan), None


class Combine(torch.autograd.Function):
    """Each token's rows times their weights, added up (eq. 6); [T, D]."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, weights_TK: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(rows_SD, weights_TK)
        return sum_rows(rows_SD, plan, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:
        rows_SD, weights_TK = ctx.saved_tensors
        weight_S = of_slots(weights_TK, ctx.plan)
        grad_SD = grad_TD.index_select(0, ctx.plan.token_S)
        grad_weight_S = (grad_SD * rows_SD).sum(dim=1, dtype=weight_S.dtype)
        return grad_SD.mul_(weight_S[:, None].to(grad_SD.dtype)), of_tokens(grad_weight_S, ctx.plan), None
