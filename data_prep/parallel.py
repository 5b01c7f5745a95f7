"""A map over all cores that keeps the order of its results and a bounded number of tasks in flight."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from smoe_mt.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """``map(function, tasks)`` in ``workers`` processes, results in the order of the tasks.

    UserError if a worker process dies (most often: out of memory).
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    remaining = iter(tasks)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, task) for task in islice(remaining, 4 * workers))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, task) for task in islice(remaining, 1))
                yield result
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for lack of memory: try fewer with --workers 1"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def chunks(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """Consecutive lists of at most ``size`` items."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
