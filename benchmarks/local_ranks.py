"""Several ranks on this machine, as forked processes with gloo between them."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import distributed

SECONDS = 60.0


def on_ranks(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """``work(rank, *args)`` on each of ``size`` ranks; what they return, in order.

    A rank that raises, or that is not done in a minute, fails the test.
    """
    with tempfile.TemporaryDirectory() as home:
        context = get_context("fork")
        processes = [context.Process(target=_rank, args=(rank, size, Path(home), work, args)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        wrong = "\n".join((Path(home) / f"{rank}.error").read_text() for rank in range(size) if _raised(home, rank))
        assert not wrong, wrong
        assert not late, f"ranks {late} are still not done"
        return [pickle.loads((Path(home) / f"{rank}.value").read_bytes()) for rank in range(size)]


def _raised(home: str, rank: int) -> bool:
    return (Path(home) / f"{rank}.error").exists()


def _rank(rank: int, size: int, home: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)
        store = distributed.FileStore(str(home / "store"), size)
        distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS / 2)
        )
        value = work(rank, *args)
        distributed.barrier()
        (home / f"{rank}.value").write_bytes(pickle.dumps(value))
    except BaseException:  # noqa: BLE001  # the parent raises it
        (home / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
    os._exit(0)  # the parent's exit handlers are not this process's
