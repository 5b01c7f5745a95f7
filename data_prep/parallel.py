"""A map over all cores that keeps the order of its results and a bounded number of tasks in flight."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from smoe_mt.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Common = TypeVar("Common")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """What a worker process knows: large things that all tasks share travel to it once, not with every task."""

    common: Any = None

    @classmethod
    def start(cls, common: Any) -> None:
        cls.common = common

    @classmethod
    def call(cls, function: Callable[[Any, Any], Any], task: Any) -> Any:
        return function(task, cls.common)


def ordered_map(
    function: Callable[[Task, Common], Result], tasks: Iterable[Task], common: Common, workers: int
) -> Iterator[Result]:
    """``function(task, common)`` for each task in ``workers`` processes, results in the order of the tasks.

    UserError if a worker process dies (most often: out of memory).
    """
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    if workers <= 1 or len(first) < 2:
        for task in chain(first, remaining):
            yield function(task, common)
        return
    remaining = chain(first, remaining)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_Worker.start, initargs=(common,)) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(_Worker.call, function, task) for task in islice(remaining, 2 * workers)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(_Worker.call, function, task) for task in islice(remaining, 1))
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
