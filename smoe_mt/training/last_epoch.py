"""The last epoch of a training ends with a validation and a checkpoint, whatever the intervals are: fairseq sees to that where a
training ends by updates, hours or patience, but not where it ends by `max_epoch` or `stop_min_lr`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import open_dict


class LastEpoch:
    """Settings of a training that fairseq reads at the end of an epoch: those of the last one differ from what was given."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        self._epoch = 0
        self._given: Sequence[tuple[str, str, Any]] = ()

    def begin_epoch(self, epoch: int, rate: float) -> None:
        """An epoch begins, with this learning rate."""
        self._put(self._given)
        self._epoch, self._given = epoch, ()
        self.look(rate)

    def look(self, rate: float) -> None:
        """See whether the epoch is the last, now that the learning rate is `rate`."""
        last = self._cfg.optimization.max_epoch or 0
        if self._given or not (0 < last <= self._epoch or rate <= self._cfg.optimization.stop_min_lr):
            return
        # The epoch gets a checkpoint of its own name only if it is time for one.
        checkpoint = self._cfg.checkpoint
        unnamed = checkpoint.no_epoch_checkpoints or self._epoch % checkpoint.save_interval != 0
        changed = (
            ("checkpoint", "save_interval", 1),
            ("checkpoint", "no_epoch_checkpoints", unnamed),
            ("dataset", "validate_interval", 1),
        )
        self._given = self._now(changed)
        self._put(changed)

    @contextmanager
    def as_given(self) -> Iterator[None]:
        """With the settings that were given, which are those that a checkpoint records."""
        changed = self._now(self._given)
        self._put(self._given)
        try:
            yield
        finally:
            self._put(changed)

    def _now(self, settings: Sequence[tuple[str, str, Any]]) -> Sequence[tuple[str, str, Any]]:
        return [(group, name, self._cfg[group][name]) for group, name, _ in settings]

    def _put(self, settings: Sequence[tuple[str, str, Any]]) -> None:
        with open_dict(self._cfg):
            for group, name, value in settings:
                self._cfg[group][name] = value
