"""Which rank has which experts: expert e of a block lives on rank e mod n of the n that share them.

Dealt out in turn, so that every stratum is spread over all ranks. In runs of consecutive experts, all tokens of the last
stratum would meet on the last ranks, and SMoE-4-4-4-4 on 4 ranks would wait for one that has twice its share of the work.

An exchange of tokens begins with a message to each rank: which block this one is at and how many rows it sends to each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from smoe_mt.moe.distributed.all_to_all import start, wait
from smoe_mt.moe.experts.base import ExpertBank

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NO_BLOCK = -1  # in place of a block's number: nothing to send, and nothing more to come
MESH_DIMENSIONS = ("replica", "expert")


class ExpertRanks:
    """The ranks that share out the experts of a model: dimension "expert" of a mesh.

    mesh    dimensions "replica" (ranks that hold the same experts) and "expert", as ``expert_mesh`` makes it
    chunks  in training, number of parts in which experts are exchanged and computed: while one part is computed, the tokens of the
            next are on their way. 1: no overlap
    """

    def __init__(self, mesh: DeviceMesh, chunks: int = 1) -> None:
        self.mesh = mesh
        self.chunks = chunks
        self.group = mesh["expert"].get_group()
        self.size: int = self.group.size()
        self.rank: int = self.group.rank()
        self.blocks: list[ExpertBank] = []  # this rank's part of each

    def __deepcopy__(self, _memo: dict[int, Any]) -> ExpertRanks:
        raise TypeError("a model whose experts are spread over ranks cannot be copied")

    def local_experts(self, num_experts: int) -> list[int]:
        """This rank's experts of a block, in order; its n-th one is number ``rank + n * size`` of the block."""
        return self.places(range(num_experts))

    def places(self, members: Sequence[int]) -> list[int]:
        """Places in a stack that has entries of these experts of a block, of those that are this rank's."""
        return self.places_of(self.rank, members)

    def places_of(self, rank: int, members: Sequence[int]) -> list[int]:
        """The same of another rank."""
        return [place for place, e in enumerate(members) if e % self.size == rank]

    def join(self, bank: ExpertBank) -> int:
        """Take part in the exchanges; returns the number of the block. All ranks let theirs join in the same order."""
        self.blocks.append(bank)
        return len(self.blocks) - 1

    def _most_experts(self) -> int:
        """Experts that a rank has of any block, at most."""
        return max(-(-block.num_experts // self.size) for block in self.blocks)

    def exchange_counts(self, block: int, rows_RL: Tensor, dtype: torch.dtype, device: torch.device) -> CountExchange:
        """Send each rank R the number of rows that its experts L get, int64 [R, L]; receive theirs. Waits for all."""
        sent = torch.zeros(self.size, 2 + self._most_experts(), dtype=torch.long)
        sent[:, 0], sent[:, 1] = block, DTYPES.index(dtype)
        sent[:, 2 : 2 + rows_RL.size(1)] = rows_RL
        one_each = [1] * self.size
        received = wait(start(sent.to(device), one_each, one_each, self.group.group_name)).cpu()
        dtypes = received[received[:, 0] != NO_BLOCK, 1].tolist()
        return CountExchange(
            sent[:, 2:], received[:, 0].tolist(), received[:, 2:], DTYPES[dtypes[0]] if dtypes else dtype
        )


@dataclass(frozen=True)
class CountExchange:
    """The messages before an exchange. R ranks, L experts of a rank.

    send_RL     int64 [R, L], rows for the experts of each rank
    blocks      the block that each rank is at
    receive_RL  int64 [R, L], rows from each rank for the experts here
    dtype       of the rows
    """

    send_RL: Tensor
    blocks: list[int]
    receive_RL: Tensor
    dtype: torch.dtype

    @property
    def all_done(self) -> bool:
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
