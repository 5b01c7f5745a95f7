"""Counts and times of the server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST
LINES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One server's figures, in a registry of its own; any thread may add to them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answered requests, by path and status.", "path", "status")
        self.sentences = self._counter("sentences", "Translated lines.")
        self.characters = self._counter("characters", "Characters of the lines that were to be translated.")
        self.batches = self._counter("batches", "Batches that a worker was given.")
        self.worker_restarts = self._counter("worker_restarts", "Workers that were started anew after one had ended.")
        self.request_seconds = self._histogram(
            "request_seconds", "From a request for a translation to its answer.", SECONDS
        )
        self.batch_sentences = self._histogram("batch_sentences", "Lines of a batch.", LINES)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, namespace="smoe_mt", registry=self.registry)

    def _histogram(self, name: str, about: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, namespace="smoe_mt", registry=self.registry, buckets=bounds)

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A figure that is asked for whenever the metrics are read."""
        Gauge(name, about, namespace="smoe_mt", registry=self.registry).set_function(value)

    def text(self) -> str:
        """All of them, in Prometheus's text format, which `CONTENT_TYPE` names."""
        return generate_latest(self.registry).decode()
