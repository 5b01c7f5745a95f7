"""Counts and times, in the text form that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SENTENCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
PREFIX = "smoe_mt_"


@dataclass
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)


class Metrics:
    """The server's figures; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[str, float]] = {}
        self._histograms: dict[str, _Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        for name, about in {
            "requests_total": "Answered requests, by path and status.",
            "sentences_total": "Translated lines.",
            "characters_total": "Characters of the lines that were to be translated.",
            "batches_total": "Batches that a worker was given.",
            "worker_restarts_total": "Workers that were started anew after one had ended.",
        }.items():
            self._help[name] = ("counter", about)
            self._counters[name] = {} if name == "requests_total" else {"": 0.0}
        for name, about, bounds in (
            ("request_seconds", "From a request for a translation to its answer.", SECONDS),
            ("batch_sentences", "Lines of a batch.", SENTENCES),
        ):
            self._help[name] = ("histogram", about)
            self._histograms[name] = _Histogram(bounds)

    def add(self, name: str, amount: float = 1, labels: Mapping[str, str] | None = None) -> None:
        """To a counter."""
        key = ",".join(f'{label}="{value}"' for label, value in (labels or {}).items())
        with self._lock:
            self._counters[name][key] = self._counters[name].get(key, 0.0) + amount

    def observe(self, name: str, value: float) -> None:
        """In a histogram."""
        with self._lock:
            histogram = self._histograms[name]
            histogram.counts[bisect_left(histogram.bounds, value)] += 1
            histogram.total += value

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A figure that is asked for whenever the metrics are read."""
        self._help[name] = ("gauge", about)
        self._gauges[name] = value

    def value(self, name: str, labels: str = "") -> float:
        """Of a counter."""
        with self._lock:
            return self._counters[name].get(labels, 0.0)

    def text(self) -> str:
        """All of them."""
        gauges = {name: read() for name, read in self._gauges.items()}
        with self._lock:
            lines: list[str] = []
            for name, (kind, about) in self._help.items():
                full = PREFIX + name
                lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}"]
                if name in gauges:
                    lines.append(f"{full} {gauges[name]:g}")
                elif name in self._counters:
                    counts = self._counters[name].items()
                    lines += [f"{full}{{{key}}} {count:.0f}" if key else f"{full} {count:.0f}" for key, count in counts]
                else:
                    lines += _buckets(full, self._histograms[name])
        return "\n".join(lines) + "\n"


def _buckets(name: str, histogram: _Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts):
        below += count
        shown = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f'{name}_bucket{{le="{shown}"}} {below}')
    return [*lines, f"{name}_sum {histogram.total:.6f}", f"{name}_count {below}"]
