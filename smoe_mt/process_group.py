"""Processes that torchrun starts: which one this is, and the group through which they find each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from smoe_mt.errors import UserError, first_sentence


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `size`, and number `local_rank` of its machine."""

    rank: int
    size: int
    local_rank: int


def launch_in(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun says there; None without WORLD_SIZE. UserError where it says only a part of it."""
    if "WORLD_SIZE" not in environment:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        if environment["WORLD_SIZE"] == "1":
            return None
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    rank = int(environment["RANK"])
    return Launch(rank, int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank)))


def open_process_group(backend: str, launch: Launch, limit: timedelta, device: torch.device | None = None) -> Any:
    """Join the processes that torchrun started; returns a group of all of them. None waits for another longer than `limit`.

    `device`: where the collectives of `backend` compute; None for a CPU. Raises UserError where they do not find each other.
    """
    # torchrun keeps its store when it starts ranks again, and in it the addresses of those that have gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, rank, size = next(distributed.rendezvous("env://", launch.rank, launch.size, timeout=limit))
        store = distributed.PrefixStore(f"smoe_mt/attempt/{attempt}", store)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        group = distributed.new_group(timeout=limit)
        present = torch.ones((), device=device)
        distributed.all_reduce(present, group=group)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"rank {launch.rank} of {launch.size} does not find the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({first_sentence(error)}); start them with torchrun"
        ) from error
    if int(present) != launch.size:
        raise UserError(f"{int(present)} of {launch.size} ranks have found each other: start them with torchrun")
    return group


def by_one_process(action: Callable[[], None], of_each_machine: bool = False) -> None:
    """Run `action` in the first rank, or the first of each machine, while the others wait. All raise its UserError."""
    if not (distributed.is_available() and distributed.is_initialized()):
        action()
        return
    rank = distributed.get_rank()
    error: str | None = None
    if (int(os.environ.get("LOCAL_RANK", rank)) if of_each_machine else rank) == 0:
        try:
            action()
        except UserError as found:
            error = str(found)
    errors: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(errors, error)
    for one in filter(None, errors):
        raise UserError(one)
