"""The worker process: it alone holds the model, so that its death takes no request with it.

Started anew by ``spawn``: nothing is shared with the server, which stays small and never waits for a computation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from smoe_mt.errors import UserError, naming_flags
from smoe_mt.serving.wire import Answer, Ask, CannotAnswer, Facts, WorkerLost

READY, DONE, REFUSED = "ready", "done", "refused"
SECONDS_TO_END = 5.0
SECONDS_BETWEEN_LOOKS = 1.0  # at whether the process lives


class Worker(Protocol):
    """What answers asks; used by one thread."""

    def start(self) -> Facts:
        """Load the model. Raises UserError for one that cannot be used, WorkerLost where it died meanwhile."""

    def translate(self, asks: Sequence[Ask]) -> list[list[Answer]]:
        """The answers to each ask's lines. Raises CannotAnswer, and WorkerLost where it died meanwhile."""

    def close(self) -> None:
        """End it."""


class WorkerProcess:
    """A `Worker` in a process of its own."""

    def __init__(self, args: argparse.Namespace, threads: int | None = None) -> None:
        """`args`: those of ``smoe-mt serve``; `threads`: of torch, None for as many as it would use."""
        self.args, self.threads = args, threads
        self.process: Any = None
        self._connection: Connection | None = None

    def start(self) -> Facts:
        self.close()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_live, args=(theirs, self.args, self.threads), name="smoe-mt worker")
        self.process.start()
        theirs.close()  # so that its end is seen here
        kind, value = self._receive()
        if kind == REFUSED:
            self.close()
            raise UserError(value)
        facts: Facts = value
        return facts

    def translate(self, asks: Sequence[Ask]) -> list[list[Answer]]:
        if self._connection is None:
            raise WorkerLost
        try:
            self._connection.send(list(asks))
        except OSError as error:
            raise WorkerLost from error
        kind, value = self._receive()
        if kind == REFUSED:
            raise CannotAnswer(value)
        answers: list[list[Answer]] = value
        return answers

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.process is not None:
            self.process.join(SECONDS_TO_END)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
            self.process = None

    def _receive(self) -> tuple[str, Any]:
        assert self._connection is not None
        try:
            # A process that was killed may have left children of its search, which keep the connection open.
            while not self._connection.poll(SECONDS_BETWEEN_LOOKS):
                if not self.process.is_alive():
                    raise WorkerLost
            message: tuple[str, Any] = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLost from error
        return message


def _live(connection: Connection, args: argparse.Namespace, threads: int | None) -> None:
    """The whole life of a process that works."""
    # Its locks (tqdm has some) then need no clean-up, which a process that is killed or leaves at once does not do.
    multiprocessing.set_start_method("fork", force=True)
    work(connection, args, threads)
    sys.stderr.flush()
    os._exit(0)  # Python takes seconds to take down all that fairseq has imported


def work(connection: Connection, args: argparse.Namespace, threads: int | None) -> None:
    """What a worker process does: load the model, answer until the server closes the connection.

    What is not the fault of an ask ends the process; the server starts another one.
    """
    # Ctrl-C reaches all processes of a terminal, and the server says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say_warnings_in_one_line()
    try:
        with naming_flags():
            engine = _load(args, threads)
        connection.send((READY, engine.facts()))
    except (UserError, OSError) as error:
        with suppress(OSError):
            connection.send((REFUSED, str(error)))
        return
    with suppress(EOFError, BrokenPipeError):
        while True:
            asks = connection.recv()
            try:
                reply = DONE, engine.translate(asks)
            except UserError as error:
                reply = REFUSED, str(error)
            connection.send(reply)


def _load(args: argparse.Namespace, threads: int | None) -> Any:
    from smoe_mt.lean_fairseq import import_fairseq, leave_out_unused

    leave_out_unused()
    import_fairseq()
    import torch

    from smoe_mt.memory import keep_freed_memory
    from smoe_mt.serving.engine import Engine

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return Engine.of(args)


def _say_warnings_in_one_line() -> None:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.filterwarnings("ignore", module=r"(fairseq|fairseq_cli|torch|hydra|omegaconf)(\.|$)")
