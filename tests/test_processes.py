"""Work shared out to forked processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from smoe_mt import processes
from smoe_mt.errors import UserError
from smoe_mt.processes import free_memory, map_unordered, ordered_map, processes_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_one_process_works_here_in_turn() -> None:
    assert list(map_unordered(lambda i: (i * i, os.getpid()), 3)) == [(i, (i * i, os.getpid())) for i in range(3)]
    assert list(map_unordered(lambda i: os.getpid(), 1, processes=4)) == [(0, os.getpid())]
    assert list(map_unordered(lambda i: i, 0, processes=4)) == []


def test_several_inherit_the_work_and_use_one_thread_each() -> None:
    weights = torch.arange(6.0)
    found = dict(map_unordered(lambda i: (float(weights[i]), torch.get_num_threads(), os.getpid()), 6, processes=2))
    assert [found[i][0] for i in range(6)] == weights.tolist()
    assert {threads for _, threads, _ in found.values()} == {1}
    assert os.getpid() not in {pid for _, _, pid in found.values()}


def test_what_goes_wrong_in_a_process_is_raised() -> None:
    def work(i: int) -> int:
        raise UserError(f"piece {i} is wrong")

    with pytest.raises(UserError, match="piece . is wrong"):
        list(map_unordered(work, 3, processes=2))


def test_a_process_that_is_killed() -> None:
    with pytest.raises(UserError, match="one of 2 processes was killed, .*--processes 1"):
        list(map_unordered(lambda i: os.kill(os.getpid(), signal.SIGKILL), 3, processes=2))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ordered_map_keeps_the_order_of_its_tasks(workers: int) -> None:
    found = list(ordered_map(lambda i, offset: (i + offset, time.sleep(0.01 * (i % 3))), range(20), 100, workers))
    assert [value for value, _ in found] == list(range(100, 120))


def test_ordered_map_takes_tasks_as_it_needs_them() -> None:
    taken: list[int] = []
    results = ordered_map(lambda i, _: i, (taken.append(i) or i for i in range(1000)), None, 2)
    assert next(results) == 0
    assert len(taken) < 10
    results.close()  # type: ignore[attr-defined]  # a generator


def test_ordered_map_names_its_remedy_where_a_process_is_killed() -> None:
    with pytest.raises(UserError, match="one of 2 processes was killed, .*--workers 1"):
        list(ordered_map(lambda i, _: os.kill(os.getpid(), signal.SIGKILL), range(3), None, 2))


def test_processes_end_with_the_one_that_asks(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, time; from smoe_mt.processes import map_unordered\n"
        f"work = lambda i: (pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(), time.sleep(60))\n"
        "list(map_unordered(work, 2, processes=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert _within(60, lambda: len(list(tmp_path.iterdir())) == 2)
    children = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    assert _within(20, lambda: not any(map(_runs, children)))


def _within(seconds: float, condition: object) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    """Whether there is such a process, one that nobody has waited for aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 1000)
    assert processes_for(CPU, None, each=10) == 8
    assert processes_for(CPU, None, each=200) == 4, "of 0.8 of the free memory"
    assert processes_for(CPU, None, each=2000) == 1
    assert processes_for(CPU, 3, each=2000) == 3, "who asks for a number gets it"
    assert processes_for(GPU, None, each=1) == processes_for(GPU, 1, each=1) == 1
    with pytest.raises(UserError, match="2 processes cannot share work on cuda"):
        processes_for(GPU, 2, each=1)
    with pytest.raises(UserError, match="processes is 0: it must be 1 or more"):
        processes_for(CPU, 0, each=1)


def test_free_memory_is_what_a_control_group_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24683884 kB\nMemAvailable:       5000 kB\nHugePages_Total:       0\n")
    monkeypatch.setattr(processes, "MEMINFO", meminfo)
    monkeypatch.setattr(processes, "CONTROL_GROUP", tmp_path)
    assert free_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert free_memory() == 2000
