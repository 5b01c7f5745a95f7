from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from smoe_mt.memory import keep_freed_memory

COUNT_FAULTS = """
import resource, sys, torch
from smoe_mt.memory import keep_freed_memory
if not keep_freed_memory():
    sys.exit("no glibc")
faults = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20 // 4)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def test_the_same_pages_serve_again() -> None:
    """64 MiB are 16384 pages; before long none of them is new (small blocks between them may be in the way at first)."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], check=False, capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("this system's allocator is not glibc's")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 1000


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
