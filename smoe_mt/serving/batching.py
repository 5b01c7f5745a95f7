"""One queue for the lines of all requests: a free worker takes as many as fit a batch, and none is lost when a worker dies."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from smoe_mt.errors import UserError
from smoe_mt.serving.limits import Refused
from smoe_mt.serving.metrics import Metrics
from smoe_mt.serving.wire import Answer, Ask, CannotAnswer, Facts, WorkerLost
from smoe_mt.serving.worker import Worker

MOST_TRIES = 3  # of an ask whose worker died
LONGEST_PAUSE = 30.0  # seconds between two attempts to start a worker
STARTS_BEFORE_GIVING_UP = 5  # on what waits; further attempts are made


@dataclass(eq=False)
class _Waiting:
    """An ask with its answer to be, and how many workers have failed at it."""

    ask: Ask
    answers: Future[list[Answer]] = field(default_factory=Future)
    failures: int = 0


class Batcher:
    """Shares the asks of all requests among workers.

    make_worker     called once for each of `workers`; each has a thread that waits for it
    batch_lines     at most, of a batch, unless one ask has more
    waiting_lines   at most, of all asks in the queue
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        metrics: Metrics,
        workers: int = 1,
        batch_lines: int = 64,
        waiting_lines: int = 2000,
    ) -> None:
        self._make_worker, self._metrics = make_worker, metrics
        self._workers, self._batch_lines, self._waiting_lines = workers, batch_lines, waiting_lines
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ready = 0
        self._threads: list[threading.Thread] = []
        metrics.gauge("waiting_lines", "Lines that wait for a worker.", lambda: self.waiting)
        metrics.gauge("workers_ready", "Workers that have a model loaded.", lambda: self._ready)

    @property
    def waiting(self) -> int:
        """Lines in the queue."""
        with self._changed:
            return self._count()

    @property
    def ready(self) -> bool:
        """Whether a worker can answer now, and new asks are taken."""
        return self._ready > 0 and not self._closing

    def start(self) -> Facts:
        """Start the workers, and wait for the first. UserError for a model that cannot be used."""
        first = self._make_worker()
        try:
            facts = first.start()
        except WorkerLost:
            raise UserError("the worker ended while it loaded the model; was it killed, for want of memory?") from None
        self._start_thread(first, loaded=True)
        for _ in range(self._workers - 1):
            self._start_thread(self._make_worker(), loaded=False)
        return facts

    def submit(self, ask: Ask) -> Future[list[Answer]]:
        """Queue an ask; the answers to its lines come later. An answer that is cancelled before its turn is not computed.

        Raises Refused (503) where too much waits already, or the server is about to end. The future raises Refused, too.
        """
        waiting = _Waiting(ask)
        with self._changed:
            if self._closing:
                raise Refused(503, "the server is stopping", retry_after=10)
            count = self._count()
            if count and count + len(ask.lines) > self._waiting_lines:
                raise Refused(503, "too many requests are waiting; try again later", retry_after=5)
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.answers

    def drain(self) -> None:
        """Refuse new asks from now on; those that wait will be answered. Takes no lock: a signal's handler may call it."""
        self._closing = True

    def stop(self) -> None:
        """Answer what waits, end the workers and wait for them."""
        self.drain()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _count(self) -> int:
        return sum(len(waiting.ask.lines) for waiting in self._queue if not waiting.answers.cancelled())

    def _start_thread(self, worker: Worker, loaded: bool) -> None:
        name = f"smoe-mt worker {len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, args=(worker, loaded), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, worker: Worker, loaded: bool) -> None:
        """A worker's thread: until the server stops and nothing waits any more."""
        try:
            while loaded or self._started(worker):
                self._ready += 1
                try:
                    self._serve(worker)
                    return
                except WorkerLost:
                    loaded = False
                    self._metrics.worker_restarts.inc()
                    print("warning: a worker has ended and is started again", file=sys.stderr)
                finally:
                    self._ready -= 1
        finally:
            worker.close()

    def _started(self, worker: Worker) -> bool:
        """Start a worker, however many attempts it takes; False where the server stops before."""
        attempts = 0
        while True:
            try:
                worker.start()
                return True
            except (WorkerLost, UserError) as error:
                attempts += 1
                print(f"warning: a worker cannot be started: {str(error) or 'it ended'}", file=sys.stderr)
            with self._changed:
                if attempts >= STARTS_BEFORE_GIVING_UP or self._closing:
                    self._refuse_all()
                if self._closing:
                    return False
                self._changed.wait(min(LONGEST_PAUSE, 2.0**attempts / 2))

    def _refuse_all(self) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.answers.done():
                waiting.answers.set_exception(Refused(503, "the model cannot be loaded again; try later", 60))

    def _serve(self, worker: Worker) -> None:
        """Answer batches until the server stops. Raises WorkerLost, its batch being in the queue again."""
        while batch := self._next_batch():
            self._metrics.batches.inc()
            self._metrics.batch_sentences.observe(sum(len(waiting.ask.lines) for waiting in batch))
            try:
                found = worker.translate([waiting.ask for waiting in batch])
            except CannotAnswer as error:
                if len(batch) == 1:
                    batch[0].answers.set_exception(Refused(400, str(error)))
                else:  # whose fault it is shows when each is tried alone
                    self._again(batch)
                continue
            except Exception as error:  # a worker that raises is as good as one that has ended
                self._again(batch)
                raise WorkerLost from error
            for waiting, answers in zip(batch, found, strict=True):
                self._metrics.sentences.inc(len(answers))
                waiting.answers.set_result(answers)

    def _again(self, batch: Sequence[_Waiting]) -> None:
        """Put asks that a worker failed at in front of the queue, each to be tried alone from now on."""
        kept = []
        for waiting in batch:
            waiting.failures += 1
            if waiting.failures >= MOST_TRIES:
                waiting.answers.set_exception(Refused(500, f"{MOST_TRIES} workers ended while they translated this"))
            else:
                kept.append(waiting)
        with self._changed:
            self._queue.extendleft(reversed(kept))
            self._changed.notify_all()

    def _next_batch(self) -> list[_Waiting]:
        """The ask that has waited longest, and what can share its batch; [] when the server stops."""
        with self._changed:
            while True:
                batch = self._taken()
                if batch or self._closing:
                    return batch
                self._changed.wait(1.0)  # `drain` notifies nobody

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        room = self._batch_lines
        while self._queue:
            waiting = self._queue.popleft()
            fits = not batch or (
                len(waiting.ask.lines) <= room
                and waiting.ask.lane == batch[0].ask.lane
                and not (waiting.failures or batch[0].failures)
            )
            if not fits:
                left.append(waiting)
            elif waiting.failures or waiting.answers.set_running_or_notify_cancel():
                batch.append(waiting)
                room -= len(waiting.ask.lines)
            if room <= 0:
                break
        left.extend(self._queue)
        self._queue = left
        return batch
