"""A rank that dies, freezes or loses its machine ends the others within a minute, and they say which one it was.

torchrun sees the processes of its machine end, and gloo a connection that is closed. Neither sees a process that stands still, or
a machine without power; NCCL waits for both. So each rank writes a growing number to the store through which the ranks found
each other, and reads that of the next one. A thread does that: a rank that saves, loads or translates for long is heard of.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

from torch import distributed

from smoe_mt.errors import UserError, first_sentence
from smoe_mt.library_messages import COLLECTIVE_BROKEN

logger = logging.getLogger(__name__)

BEAT = 1.0  # seconds
SILENCE = 40  # beats; counted by this process, so that ranks that are all suspended do not miss each other
LEFT = "left"
EXIT_ALONE = os.EX_UNAVAILABLE


class Heartbeats:
    """Of rank `rank` of `size`, in `store`; written and read from `start` until the process ends."""

    def __init__(self, store: distributed.Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._who = f"process {os.getpid()} on {socket.gethostname()}"
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin, once all ranks are there."""
        self._write(str(self._beats))
        distributed.barrier()
        atexit.register(self._leave)
        self._thread.start()

    def gone(self) -> list[str]:
        """The ranks that write no more or, where all do, those that have left; takes some seconds."""
        before = self._read_all()
        time.sleep(3 * BEAT)
        others = {rank: found for rank, found in self._read_all().items() if rank != self._rank}
        left = [rank for rank, (_, beat) in others.items() if beat == LEFT]
        silent = [rank for rank, found in others.items() if found == before[rank] and rank not in left]
        return [f"rank {rank} ({others[rank][0]})" for rank in silent or left]

    def _watch(self) -> None:
        watched = (self._rank + 1) % self._size
        last, silent = "", 0
        while silent < SILENCE:
            if self._ended.wait(BEAT):
                return
            began = time.monotonic()
            try:
                self._beats += 1
                self._write(str(self._beats))
                found = self._store.get(str(watched)).decode()
            except RuntimeError:  # the first rank, or its torchrun, which keeps the store
                watched, last = 0, ""
                silent += max(1, round((time.monotonic() - began) / BEAT))
                continue
            silent = silent + 1 if found == last and not found.endswith(f"|{LEFT}") else 0
            last = found
        who = last.partition("|")[0] or "with it the store of the ranks' addresses"
        logger.error(f"rank {watched} has not been heard of for {SILENCE * BEAT:.0f} s ({who}): {AGAIN}")
        sys.stdout.flush()
        os._exit(EXIT_ALONE)

    def _write(self, beat: str) -> None:
        self._store.set(str(self._rank), f"{self._who}|{beat}")

    def _read_all(self) -> dict[int, tuple[str, str]]:
        values = self._store.multi_get([str(rank) for rank in range(self._size)])
        found = (value.decode().partition("|") for value in values)
        return {rank: (who, beat) for rank, (who, _, beat) in enumerate(found)}

    def _leave(self) -> None:
        self._ended.set()
        self._thread.join()  # Python must not end while it is in the store's code
        try:
            self._write(LEFT)
        except RuntimeError:
            pass  # the store has gone already


AGAIN = "the others end too; start the run again to continue from its last checkpoint"
_heartbeats: list[Heartbeats] = []


def start_heartbeat(environment: Mapping[str, str], rank: int, size: int) -> None:
    """Start the heartbeats of this process, over a connection of their own."""
    seconds = timedelta(seconds=SILENCE * BEAT / 4)  # that it takes to notice a store whose machine is off
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = distributed.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=seconds)
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    heartbeats = Heartbeats(distributed.PrefixStore(f"smoe_mt/heartbeats/{attempt}", store), rank, size)
    heartbeats.start()
    _heartbeats[:] = [heartbeats]


def diagnose_peer_failure(error: BaseException | None) -> UserError | None:
    """What to say of an error that other ranks are the cause of; None for another one."""
    for one in _chain(error):
        if (
            not _heartbeats
            or not isinstance(one, RuntimeError)
            or not any(word in str(one) for word in COLLECTIVE_BROKEN)
        ):
            continue
        try:
            gone = _heartbeats[0].gone()
        except RuntimeError:
            gone = ["rank 0, or the torchrun that has the ranks' addresses,"]
        if gone:
            return UserError(f"{', '.join(gone)} has gone: {AGAIN}")
        return UserError(
            f"the ranks do not hear of each other any more ({first_sentence(one)}), though none has gone: one of them may be "
            f"stuck (distributed_training.heartbeat_timeout says for how long the others wait); {AGAIN}"
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
