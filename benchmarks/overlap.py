"""What a profiler saw of exchanges that go on while experts are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

LAUNCH = "_c10d_functional::all_to_all_single"
EXCHANGE = "gloo:all_to_all"  # by a thread of gloo's, as soon as one is free
FORWARD, BACKWARD = "_LoopFFN", "_LoopFFNBackward"  # the experts' products of a part


@dataclass(frozen=True)
class Span:
    """When something began and ended, in microseconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Spans:
    """What happened in a profiled run, each in the order of its beginning; exchanges with the words before them.

    launched   the calls that start exchanges
    exchanges  rows on their way
    forward    the products of a part, and backward
    """

    launched: list[Span]
    exchanges: list[Span]
    forward: list[Span]
    backward: list[Span]

    @property
    def under_computation(self) -> float:
        """Share of the exchanges' time during which this rank computed experts."""
        return overlap(self.exchanges, [*self.forward, *self.backward]) / sum(e.end - e.start for e in self.exchanges)

    @property
    def seconds(self) -> float:
        """Of all exchanges."""
        return sum(each.end - each.start for each in self.exchanges) / 1e6


def profiled(run: Callable[[], object]) -> tuple[Spans, torch.profiler.profile]:
    """What the profiler sees of `run`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return spans(profile.events()), profile


def spans(events: Sequence[Any]) -> Spans:
    """Of a profiler's events."""

    def called(name: str) -> list[Span]:
        found = [Span(e.time_range.start, e.time_range.end) for e in events if e.name == name]
        return sorted(found, key=lambda span: span.start)

    return Spans(called(LAUNCH), called(EXCHANGE), called(FORWARD), called(BACKWARD))


def overlap(exchanges: Sequence[Span], computed: Sequence[Span]) -> float:
    """Microseconds of `exchanges` during which something of `computed`, which do not overlap each other, went on."""
    return sum(max(0.0, min(e.end, c.end) - max(e.start, c.start)) for e in exchanges for c in computed)
