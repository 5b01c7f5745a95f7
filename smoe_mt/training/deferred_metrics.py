"""The criterion's metrics of several updates, worked out together: once per log interval the device is waited for, not per update.

The criterion logs sums and weights, so that the average over some updates is the same whether each is logged or their total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairseq.logging import metrics

LONGEST = 100  # updates that are kept at most: each holds its sums on the device

Outputs = Sequence[Mapping[str, Any]]


class DeferredMetrics:
    """Logging outputs of updates that fairseq's meters have not got yet. What reads the meters makes the latest object flush."""

    latest: DeferredMetrics | None = None

    def __init__(self, log: Callable[[list[Mapping[str, Any]]], None]) -> None:
        """``log``: the criterion's ``reduce_metrics``."""
        self._log = log
        self._outputs: list[Mapping[str, Any]] = []
        self._updates = 0
        DeferredMetrics.latest = self

    def add(self, outputs: Outputs) -> None:
        """Those of one update."""
        self._outputs += outputs
        self._updates += 1
        if self._updates >= LONGEST:
            self.flush()

    def flush(self) -> None:
        """Log what was kept, to the meters of the epoch and of the log interval."""
        outputs, self._outputs, self._updates = self._outputs, [], 0
        if outputs:
            with metrics.aggregate("train"), metrics.aggregate("train_inner"):
                self._log(outputs)


def flush_latest() -> None:
    """Bring fairseq's meters up to the last update."""
    if DeferredMetrics.latest is not None:
        DeferredMetrics.latest.flush()


def log_update(outputs: Outputs, grad_norm: float, clip_norm: float) -> None:
    """What each update logs at once, as fairseq does: its size, its speed and the gradient's norm, all known without the device."""
    for key, count, priority in (("wpb", "ntokens", 180), ("bsz", "nsentences", 190)):
        metrics.log_scalar(key, sum(log[count] for log in outputs), priority=priority, round=1)
    metrics.log_speed("wps", sum(log["ntokens"] for log in outputs), priority=90, round=1)
    metrics.log_speed("ups", 1.0, priority=100, round=2)
    metrics.log_scalar("gnorm", grad_norm, priority=400, round=3)
    if clip_norm > 0:
        metrics.log_scalar("clip", 100.0 if grad_norm > clip_norm else 0.0, priority=500, round=1)
