"""A worker without a model: it writes lines in capitals, and can be told to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from smoe_mt.serving.wire import Answer, Ask, CannotAnswer, Facts, WorkerLost

FACTS = Facts(
    name="toy",
    targets={"fi": ("sv", "en"), "sv": ("fi", "en"), "en": ("fi", "sv"), "aa": ("en",)},
    blocks={"encoder.layers.1": (2, 2)},
    strata=2,
    dial=True,
    beam=5,
)
#: Lines that a worker dies of, cannot answer, or raises at.
DEADLY, IMPOSSIBLE, FAULTY = "deadly", "impossible", "faulty"


class Capitals:
    """Remembers its batches; `gate` holds it back until it is set."""

    def __init__(self, facts: Facts = FACTS, before_start: Callable[[], None] = lambda: None) -> None:
        self.facts, self.before_start = facts, before_start
        self.batches: list[list[Ask]] = []
        self.starts = 0
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def start(self) -> Facts:
        self.starts += 1
        self.before_start()
        return self.facts

    def translate(self, asks: Sequence[Ask]) -> list[list[Answer]]:
        self.batches.append(list(asks))
        self.entered.set()
        self.gate.wait(10)
        lines = [line for ask in asks for line in ask.lines]
        if DEADLY in lines:
            raise WorkerLost
        if FAULTY in lines:
            raise ZeroDivisionError
        if IMPOSSIBLE in lines:
            raise CannotAnswer("it cannot be done")
        return [[self.answer(line, ask) for line in ask.lines] for ask in asks]

    def answer(self, line: str, ask: Ask) -> Answer:
        texts = tuple(line.upper() + "!" * place for place in range(ask.nbest))
        return Answer(texts, ({"source": line, "candidates": []},) if ask.routing else ())

    def close(self) -> None:
        self.closed = True
