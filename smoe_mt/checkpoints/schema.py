"""What fairseq keeps where in a checkpoint; no other module names these entries.

A checkpoint may be of another program or of another version: what is missing is None, and nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smoe_mt.checkpoints.names import BUFFERS_OF_GATES

TASK = "many_to_many_translation"
VOCABULARY = "vocabulary"  # in the task's state
AVERAGED = "averaged"  # in the extra state of a mean: names of the checkpoints that it is the mean of
PRUNED = "pruned_from"  # in the extra state of a pruned model: name of the checkpoint with all of its experts


@dataclass(frozen=True)
class CheckpointView:
    """What a checkpoint says of itself, besides its weights and settings."""

    state: Mapping[str, Any]

    @property
    def updates(self) -> int | None:
        """Updates of its training."""
        history = self.state.get("optimizer_history")
        last = _mapping(history[-1]) if isinstance(history, list) and history else {}
        updates = last.get("num_updates")
        return None if updates is None else int(updates)

    @property
    def epoch(self) -> int | None:
        """The epoch that the training was in."""
        found: int | None = _mapping(self._extra.get("train_iterator")).get("epoch")
        return found

    @property
    def validation_loss(self) -> float | None:
        """Or another score that checkpoints are compared by."""
        loss = self._extra.get("val_loss")
        return None if loss is None else float(loss)

    @property
    def training_seconds(self) -> float | None:
        """How long it was trained until then, interruptions aside."""
        seconds = self._extra.get("previous_training_time")
        return float(seconds) if isinstance(seconds, (int, float)) else None

    @property
    def worse_validations(self) -> int:
        """How many in a row were no better than the best, as `checkpoint.patience` counts them."""
        return int(_mapping(_mapping(self._extra.get("smoe_mt")).get("early_stopping")).get("num_runs", 0))

    @property
    def mean_of(self) -> list[str] | None:
        """Names of the checkpoints that it is the mean of; None for one that is no mean."""
        found: list[str] | None = self._extra.get(AVERAGED)
        return found

    @property
    def pruned_from(self) -> str | None:
        """Name of the checkpoint whose experts were merged into those of this one; None for one with all of its experts."""
        found: str | None = self._extra.get(PRUNED)
        return found

    @property
    def task_state(self) -> Mapping[str, Any]:
        """What the task keeps."""
        return _mapping(self.state.get("task_state"))

    @property
    def vocabulary(self) -> Mapping[str, Any] | None:
        """The fingerprint of its vocabulary (`tasks.vocabulary`)."""
        return self.task_state.get(VOCABULARY)

    @property
    def resumable(self) -> bool:
        """Whether a training can go on from it, and not only start with its weights."""
        return self.state.get("last_optimizer_state") is not None and "train_iterator" in self._extra

    @property
    def _extra(self) -> Mapping[str, Any]:
        return _mapping(self.state.get("extra_state"))


def updates_of(state: Mapping[str, Any]) -> int:
    """Updates of its training; 0 where it does not say."""
    return CheckpointView(state).updates or 0


def untrained_history(updates: int) -> list[dict[str, Any]]:
    """fairseq's optimizer history of a checkpoint without an optimizer to go on with: fairseq asks for all of these."""
    return [{"num_updates": updates, "optimizer_name": None, "lr_scheduler_state": {"best": None}}]


def tied_tensors(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of weights that are another one's (the same memory, read the same way) -> that one's name, the first."""
    first: dict[Any, str] = {}
    names = {name: first.setdefault(place_of(name, tensor), name) for name, tensor in weights.items()}
    return {name: kept for name, kept in names.items() if name != kept}


def place_of(name: str, tensor: Tensor) -> Any:
    """What two names of one tensor have in common. Empty tensors have no memory, so none of them is tied."""
    same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    return same if tensor.numel() else name


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def is_weight(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a model's state is written in the precision that is asked for: buffers of gates stay in float32."""
    return tensor.is_floating_point() and not name.endswith(BUFFERS_OF_GATES)
