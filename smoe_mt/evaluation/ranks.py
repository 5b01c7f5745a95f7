"""The processes of one evaluation: under torchrun each translates a part, and the first has the results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from smoe_mt.process_group import launch_in, open_process_group

Value = TypeVar("Value")
# The others wait while the first scores.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`, all of which take the same steps."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process scores, writes and speaks."""
        return self.rank == 0

    def share(self, lengths: Sequence[int]) -> list[int]:
        """This process' part of the places of `lengths`: every `size`-th in order of length, so that parts are alike."""
        return sorted(range(len(lengths)), key=lambda place: lengths[place])[self.rank :: self.size]

    def tell(self, value: Value) -> Value:
        """The first process' `value`, on all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes in order of their ranks, on the first; nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.first else None
        distributed.gather_object(value, values, dst=0)
        return values or []

    def device(self, name: str) -> str:
        """The device of this process where `name` was asked for: a GPU of its own, counted on this machine."""
        if self.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"
        return name


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """What torchrun says in the environment (RANK, WORLD_SIZE, ...); a single process without it.

    Raises UserError where the processes do not find each other.
    """
    launch = launch_in(os.environ)
    if launch is None or launch.size == 1:
        yield Ranks()
        return
    open_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", launch, PATIENCE)
    try:
        yield Ranks(launch.rank, launch.size)
    finally:
        distributed.destroy_process_group()
