"""The queue between requests and workers, with workers that have no model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smoe_mt.errors import UserError
from smoe_mt.serving.batching import MOST_TRIES, Batcher
from smoe_mt.serving.limits import Refused
from smoe_mt.serving.metrics import Metrics
from smoe_mt.serving.wire import Ask, WorkerLost
from tests.serving.fakes import DEADLY, FACTS, FAULTY, IMPOSSIBLE, Capitals

SECONDS = 20


@pytest.fixture
def worker() -> Capitals:
    return Capitals()


@pytest.fixture
def batcher(worker: Capitals) -> Iterator[Batcher]:
    made = Batcher(lambda: worker, Metrics(), batch_lines=4, waiting_lines=6)
    assert made.start() == FACTS
    yield made
    worker.gate.set()
    made.stop()


def ask(*lines: str, capacity: str | None = None, nbest: int = 1) -> Ask:
    return Ask(lines, "fi", "en", nbest, capacity=capacity)


def hold(batcher: Batcher, worker: Capitals) -> None:
    """Keep the worker busy, so that what comes now waits."""
    worker.gate.clear()
    batcher.submit(ask("first"))
    assert worker.entered.wait(SECONDS)


def test_answers_come_back_to_those_who_asked(batcher: Batcher) -> None:
    futures = [batcher.submit(ask(str(n), "x")) for n in range(3)]
    assert [[a.texts for a in f.result(SECONDS)] for f in futures] == [[(str(n),), ("X",)] for n in range(3)]


def test_what_waits_shares_a_batch_up_to_its_size(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    futures = [batcher.submit(ask(*"abc")), batcher.submit(ask(*"de")), batcher.submit(ask("f"))]
    worker.gate.set()
    for future in futures:
        future.result(SECONDS)
    shared = [["".join(one.lines) for one in batch] for batch in worker.batches[1:]]
    assert shared == [["abc", "f"], ["de"]]


def test_another_capacity_is_another_batch(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    futures = [batcher.submit(ask("a")), batcher.submit(ask("b", capacity="bias=1")), batcher.submit(ask("c"))]
    worker.gate.set()
    for future in futures:
        future.result(SECONDS)
    assert [[one.lines[0] for one in batch] for batch in worker.batches[1:]] == [["a", "c"], ["b"]]


def test_a_full_queue_refuses(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    waiting = batcher.submit(ask(*"abcd"))
    assert batcher.waiting == 4
    with pytest.raises(Refused, match="too many requests are waiting") as refused:
        batcher.submit(ask(*"efg"))
    assert refused.value.status == 503
    waiting.cancel()
    batcher.submit(ask(*"efg"))


def test_what_was_cancelled_is_not_translated(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    gone, kept = batcher.submit(ask("gone")), batcher.submit(ask("kept"))
    gone.cancel()
    worker.gate.set()
    kept.result(SECONDS)
    assert not any(one.lines == ("gone",) for batch in worker.batches for one in batch)


@pytest.mark.parametrize("line", [DEADLY, FAULTY])
def test_nothing_is_lost_beside_an_ask_that_kills_workers(batcher: Batcher, worker: Capitals, line: str) -> None:
    hold(batcher, worker)
    before, bad, after = (batcher.submit(ask(text)) for text in ("before", line, "after"))
    worker.gate.set()
    assert before.result(SECONDS)[0].texts == ("BEFORE",) and after.result(SECONDS)[0].texts == ("AFTER",)
    with pytest.raises(Refused) as refused:
        bad.result(SECONDS)
    assert refused.value.status == 500
    assert worker.starts == 1 + MOST_TRIES
    assert batcher.submit(ask("later")).result(SECONDS)[0].texts == ("LATER",)


def test_a_worker_that_dies_once_is_started_again_and_its_batch_repeated() -> None:
    class Mortal(Capitals):
        def translate(self, asks):  # type: ignore[no-untyped-def]
            if self.starts == 1:
                raise WorkerLost
            return super().translate(asks)

    worker, metrics = Mortal(), Metrics()
    batcher = Batcher(lambda: worker, metrics)
    batcher.start()
    assert batcher.submit(ask("a", "b")).result(SECONDS)[1].texts == ("B",)
    batcher.stop()
    assert metrics.registry.get_sample_value("smoe_mt_worker_restarts_total") == 1


def test_an_ask_that_cannot_be_answered_is_refused_alone(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    good, bad = batcher.submit(ask("good")), batcher.submit(ask(IMPOSSIBLE))
    worker.gate.set()
    assert good.result(SECONDS)[0].texts == ("GOOD",)
    with pytest.raises(Refused, match="it cannot be done") as refused:
        bad.result(SECONDS)
    assert refused.value.status == 400 and worker.starts == 1


def test_stopping_answers_what_waits_and_refuses_what_is_new(batcher: Batcher, worker: Capitals) -> None:
    hold(batcher, worker)
    waiting = batcher.submit(ask("waits"))
    batcher.drain()
    with pytest.raises(Refused, match="stopping"):
        batcher.submit(ask("new"))
    assert not batcher.ready
    worker.gate.set()
    batcher.stop()
    assert waiting.result(0)[0].texts == ("WAITS",) and worker.closed


def test_several_workers_work_at_the_same_time() -> None:
    made: list[Capitals] = []

    def make() -> Capitals:
        made.append(Capitals())
        made[-1].gate.clear()
        return made[-1]

    batcher = Batcher(make, Metrics(), workers=2)
    batcher.start()
    first, second = batcher.submit(ask("a")), batcher.submit(ask("b"))
    assert made[0].entered.wait(SECONDS) or made[1].entered.wait(SECONDS)
    for worker in made:
        worker.gate.set()
    assert {first.result(SECONDS)[0].texts, second.result(SECONDS)[0].texts} == {("A",), ("B",)}
    batcher.stop()
    assert len(made) == 2 and all(worker.closed and worker.starts == 1 for worker in made)


@pytest.mark.parametrize(("error", "match"), [(UserError("no such model"), "no such model"), (WorkerLost(), "killed")])
def test_a_model_that_cannot_be_loaded_is_said_at_once(error: Exception, match: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(UserError, match=match):
        Batcher(lambda: Capitals(before_start=fail), Metrics()).start()
