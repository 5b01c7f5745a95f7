"""Computes experts concurrently on the cores of a CPU: one thread for each expert, instead of all threads on one expert.

An expert's product is small, and threads that share it wait for each other at its end; products of one thread each
scale with the cores, and so does all the rest that is done per expert.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

WEIGHTS_AS_ROWS = 32  # what reading an expert's weights costs, in rows of its product
MOST_IDLE = 1.25  # time of the busiest thread to that of an even share, above which experts are not shared out


def for_each_expert(
    work: Callable[[int], None], rows: Sequence[int], device: torch.device, sizes: Sequence[int] | None = None
) -> None:
    """``work(e)`` for each expert that has rows; rows[e] is how many. ``work`` writes its results into tensors given.

    ``sizes[e]``: its hidden units; None: all have as many.

    Inside, no gradients are recorded. The order is not defined; what ``work`` computes must not depend on it.
    """
    asked = [e for e, count in enumerate(rows) if count]
    shares = shared_out(
        {e: (rows[e] + WEIGHTS_AS_ROWS) * (sizes[e] if sizes else 1) for e in asked}, free_threads(device)
    )
    if len(shares) < 2:
        _in_turn(work, asked, torch.is_inference_mode_enabled())
        return
    pool = _pool(len(shares), os.getpid())
    jobs = [pool.submit(_in_turn, work, share, torch.is_inference_mode_enabled()) for share in shares]
    for job in jobs:
        job.result()


def free_threads(device: torch.device) -> int:
    """Threads to share experts out to; 1 on a GPU, and where a dispatch mode, which sees one thread alone, is on."""
    if device.type != "cpu" or torch._C._len_torch_dispatch_stack():
        return 1
    return torch.get_num_threads()


def shared_out(costs: dict[int, int], threads: int) -> list[list[int]]:
    """Experts for each thread, the most expensive first, each to the thread with the least work; all in one list where that is too uneven."""
    everything = sorted(costs, key=lambda e: -costs[e])
    if threads < 2 or len(costs) < 2:
        return [everything]
    shares: list[list[int]] = [[] for _ in range(min(threads, len(costs)))]
    totals = [0] * len(shares)
    for e in everything:
        least = totals.index(min(totals))
        shares[least].append(e)
        totals[least] += costs[e]
    return shares if max(totals) * threads <= MOST_IDLE * sum(totals) else [everything]


def _in_turn(work: Callable[[int], None], experts: Sequence[int], inference: bool) -> None:
    with torch.inference_mode() if inference else torch.no_grad():
        for e in experts:
            work(e)


@lru_cache(maxsize=1)
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    """Threads that compute alone, each; a forked process gets its own."""
    return ThreadPoolExecutor(threads, "expert", initializer=torch.set_num_threads, initargs=(1,))
