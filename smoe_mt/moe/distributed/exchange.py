"""The order in which rows travel to the ranks of their experts, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.distributed.all_to_all import AllToAllSplit
from smoe_mt.moe.distributed.placement import CountExchange, ExpertRanks


def expert_major(rows_RL: Tensor) -> Tensor:
    """Rows lie by rank, then expert: their places by expert, then rank; int64 [S]. rows_RL int64 [R, L] counts them."""
    lengths_RL = rows_RL.reshape(-1)
    begins_RL = (lengths_RL.cumsum(0) - lengths_RL).view_as(rows_RL)
    lengths = rows_RL.t().reshape(-1)
    shift = begins_RL.t().reshape(-1) - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)


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

    def splits(self, counts: CountExchange, ranks: ExpertRanks) -> list[AllToAllSplit]:
        """A split for each part."""
        splits = []
        for chunk in range(self.chunks):
            mine = self.part(ranks.rank, chunk)
            leaving = [counts.send_RL[rank, self._columns(rank, chunk)].sum() for rank in range(self.size)]
            send_R1 = torch.stack(leaving)[:, None]
            receive_RL = counts.receive_RL[:, mine.start : mine.stop]
            splits.append(AllToAllSplit.of(send_R1, receive_RL, mine, ranks.group.group_name))
        return splits

    def _columns(self, rank: int, chunk: int) -> slice:
        part = self.part(rank, chunk)
        return slice(part.start, part.stop)
