"""Commands of smoe-mt side by side: chains of jobs, each in a process of its own, on the slots of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smoe_mt import preemption
from smoe_mt.errors import UserError
from smoe_mt.processes import available_cores
from smoe_mt.training.console import UPDATE

PAUSE = 0.5  # seconds between two looks at the processes
PATIENCE = 90.0  # seconds that a training has to save and end, once it is asked to
TAIL = 4096  # bytes of a log that are looked at
UPDATES = re.compile(rb"(?:num_updates[= ]|update )([\d,]+)")


@dataclass(frozen=True)
class Job:
    """`command`: arguments of smoe-mt. `done` says whether its result is there; `begin` is called before it
    starts, `finish` as it ends well.

    `updates`: of a training, how many it makes; 0 for others.
    """

    kind: str
    item: str
    command: tuple[str, ...]
    log: Path
    done: Callable[[], bool]
    begin: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    updates: int = 0

    def made(self) -> int:
        """Updates made so far, as its log says."""
        found = UPDATES.findall(self._tail())
        return int(found[-1].replace(b",", b"")) if found else 0

    def progress(self) -> str:
        """The last line of progress in its log; empty where there is none."""
        lines = self._tail().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if UPDATE.fullmatch(line)), "")

    def _tail(self) -> bytes:
        with suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
            return stream.read()
        return b""


@dataclass(frozen=True)
class Slot:
    """Place `number` for one process: a GPU that it may use, or none; the cores that it is bound to, or any."""

    number: int
    gpu: str | None
    cores: tuple[int, ...]
    threads: int

    def environment(self) -> dict[str, str]:
        """Of a process there."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": self.gpu or "", "OMP_NUM_THREADS": str(self.threads)}


@dataclass(frozen=True)
class Failure:
    """A job that did not end well, and the last line that it said."""

    job: Job
    code: int
    said: str


def slots_of(cpu_jobs: int, gpu_jobs: int, bind: bool) -> list[Slot]:
    """Places for so many processes without and with a GPU, the latter first; they share the cores, and GPUs in turn.

    UserError where GPUs are asked for and there is none.
    """
    gpus = _gpus() if gpu_jobs else []
    if gpu_jobs and not gpus:
        raise UserError(f"--gpu-jobs {gpu_jobs}: torch finds no GPU here; use --jobs")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(available_cores())]
    number = cpu_jobs + gpu_jobs
    each = max(1, len(cores) // number)
    slots = []
    for place in range(number):
        own = tuple(cores[(place * each + k) % len(cores)] for k in range(each)) if bind else ()
        slots.append(Slot(place, gpus[place % len(gpus)] if place < gpu_jobs else None, own, each))
    return slots


def _gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


class Pool:
    """Runs chains of jobs. A job whose result is there is skipped; the rest of a chain waits for it, and falls with it.

    `seconds`: after so many no job is started, and running ones are asked to save and end; None: no limit. SIGTERM does the same.
    """

    def __init__(self, slots: Sequence[Slot], seconds: float | None) -> None:
        self.slots = slots
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.failures: list[Failure] = []
        self.interrupted = False
        self._running: dict[Slot, tuple[int, Job, subprocess.Popen[bytes]]] = {}

    def run(self, chains: Sequence[Sequence[Job]], show: Callable[[Sequence[Job]], None]) -> None:
        """Until all is done, has failed or time is up; `show` is given the running jobs now and then."""
        preemption.listen()
        waiting = {number: [job for job in chain if not job.done()] for number, chain in enumerate(chains)}
        try:
            while True:
                self._collect(waiting)
                self.interrupted = self.interrupted or self._time_is_up()
                if self.interrupted:
                    break
                self._start(waiting)
                if not self._running:
                    return
                show([job for _, job, _ in self._running.values()])
                time.sleep(PAUSE)
            self._end(waiting)
        finally:
            for _, _, process in self._running.values():
                process.kill()

    def _time_is_up(self) -> bool:
        return preemption.asked_to_leave() is not None or (
            self.deadline is not None and time.monotonic() >= self.deadline
        )

    def _start(self, waiting: dict[int, list[Job]]) -> None:
        busy = {number for number, _, _ in self._running.values()}
        ready = [number for number, jobs in waiting.items() if jobs and number not in busy]
        for slot, number in zip([slot for slot in self.slots if slot not in self._running], ready):
            job = waiting[number].pop(0)
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.begin()
            with job.log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "smoe_mt.cli", *job.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=slot.environment(),
                )
            if slot.cores:
                os.sched_setaffinity(process.pid, slot.cores)
            self._running[slot] = (number, job, process)

    def _collect(self, waiting: dict[int, list[Job]]) -> None:
        """What has ended frees its slot."""
        for slot, (number, job, process) in [*self._running.items()]:
            code = process.poll()
            if code is None:
                continue
            del self._running[slot]
            if code == 0:
                job.finish()
            elif code == preemption.EXIT_PREEMPTED or (self.interrupted and code == -signal.SIGTERM):
                waiting[number].clear()
            else:
                waiting[number].clear()
                self.failures.append(Failure(job, code, _last_line(job.log)))

    def _end(self, waiting: dict[int, list[Job]]) -> None:
        """Ask all to end, and wait for them."""
        for _, _, process in self._running.values():
            process.terminate()
        until = time.monotonic() + PATIENCE
        while self._running and time.monotonic() < until:
            time.sleep(PAUSE)
            self._collect(waiting)


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_bytes()[-TAIL:].decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
