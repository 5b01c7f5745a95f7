"""Work on the cores of a CPU: processes of one thread each, forked, so that nothing is loaded twice.

The threads of a small product wait for each other, and Python has one at a time; processes share the weights and wait for
nobody. torch is imported only by what asks about devices: preparing text does without.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smoe_mt.errors import UserError

if TYPE_CHECKING:
    import torch

Task = TypeVar("Task")
Common = TypeVar("Common")
Result = TypeVar("Result")
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
SHARE_OF_MEMORY = 0.8  # of what is free


def map_unordered(work: Callable[[int], Result], count: int, processes: int = 1) -> Iterator[tuple[int, Result]]:
    """(i, work(i)) for every i below `count`, as they are done; in this process where there is one alone.

    `work` is inherited, and its results are pickled. Raises what it raises, and UserError where a process was killed.
    """
    processes = min(processes, count)
    if processes < 2:
        for i in range(count):
            yield i, work(i)
        return
    with _pool(processes, work, "use --processes 1, or a smaller --max-tokens") as pool:
        jobs = {pool.submit(_work, i): i for i in range(count)}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def ordered_map(
    function: Callable[[Task, Common], Result], tasks: Iterable[Task], common: Common, workers: int
) -> Iterator[Result]:
    """``function(task, common)`` for each task, results in the order of the tasks; at most ``2 * workers`` are in flight.

    ``common`` travels to each process once. Raises what the function raises, and UserError where a process was killed.
    """
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    remaining = chain(first, remaining)
    if workers <= 1 or len(first) < 2:
        for task in remaining:
            yield function(task, common)
        return
    with _pool(workers, partial(_with_common, function, common), "use --workers 1") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(_work, task) for task in islice(remaining, 2 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(_work, task) for task in islice(remaining, 1))
            yield result


def chunks(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """Consecutive lists of at most ``size`` items."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


@contextmanager
def _pool(processes: int, work: Callable[[Any], Any], remedy: str) -> Iterator[ProcessPoolExecutor]:
    """Processes that know `work`, for `_work`. A UserError that ends with `remedy` where one of them was killed."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(work,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(f"one of {processes} processes was killed, most often for want of memory; {remedy}") from error
    finally:
        pool.shutdown(cancel_futures=True)


_inherited: Callable[[Any], Any]


def _begin(work: Callable[[Any], Any]) -> None:
    """In a new process: one thread, and an end at Ctrl-C or when the process that asks has ended."""
    global _inherited
    _inherited = work
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Any) -> Any:
    return _inherited(task)


def _with_common(function: Callable[[Any, Any], Any], common: Any, task: Any) -> Any:
    return function(task, common)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_fork(device: torch.device) -> bool:
    """Whether work on `device` can be shared out here. A CUDA context does not outlive a fork, nor macOS' own libraries."""
    return device.type == "cpu" and sys.platform == "linux"


def processes_for(device: torch.device, asked: int | None, each: int) -> int:
    """How many processes to use: as many as `asked`; None: one for each thread that torch would use, as long as there is
    memory for what `each` takes, in bytes.

    Raises UserError for a number that cannot be had.
    """
    if asked is not None and asked < 1:
        raise UserError(f"processes is {asked}: it must be 1 or more")
    if not can_fork(device):
        if asked is not None and asked > 1:
            raise UserError(f"{asked} processes cannot share work on {device.type} here; leave out --processes")
        return 1
    if asked is not None:
        return asked
    import torch

    return max(1, min(torch.get_num_threads(), int(SHARE_OF_MEMORY * free_memory()) // max(each, 1)))


def free_memory() -> int:
    """Bytes that this process and its children may still take: the machine's, or what a control group leaves of them."""
    lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit, used = ((CONTROL_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no control group, or none of this version
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))
