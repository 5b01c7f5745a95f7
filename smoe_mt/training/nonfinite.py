"""Updates whose loss or gradient is not finite: left out, counted, and after some in a row the end of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.training.saving import save_whole

logger = logging.getLogger(__name__)

METRIC = "nonfinite"
BATCH_FILE = "nonfinite_batch"


class NonFiniteUpdate(Exception):
    """The update must be left out; raised on all ranks alike, between the reduction of gradients and the optimiser's step."""


class LossScaleLowered(NonFiniteUpdate):
    """A gradient was not finite for the scale of the loss (`common.fp16`), which is lower from the next update on."""


class LossScaleTooLow(NonFiniteUpdate):
    """As above, and a lower scale would be below `common.min_loss_scale`."""


class NonFiniteUpdates:
    """Watches an update's losses and counts the updates that were left out.

    `limit`: as many in a row end the run; 0 = never.
    """

    def __init__(self, limit: int, criterion: nn.Module, rank: int = 0) -> None:
        self._limit = limit
        self._rank = rank
        #: Ranks whose loss of this update is not finite, once all know of each other.
        self.bad_ranks: list[int] = []
        self._losses: list[Tensor] = []
        self.total = 0
        self.in_a_row = 0
        criterion.register_forward_hook(self._note_loss)

    def _note_loss(self, criterion: nn.Module, _inputs: Any, outputs: Any) -> None:
        if criterion.training:
            self.note(outputs[0])

    def note(self, loss: Tensor) -> None:
        """A loss of this update."""
        self._losses.append(loss.detach().float())

    def begin(self) -> None:
        """Forget the losses of the update before."""
        self._losses.clear()

    def bad_loss(self) -> Tensor | bool:
        """Whether a loss of this update is not finite, on this rank; a tensor on the losses' device."""
        return ~torch.stack(self._losses).isfinite().all() if self._losses else False

    def good(self) -> None:
        """An update was made."""
        self.in_a_row = 0
        self.log()

    def left_out(self, reason: NonFiniteUpdate, updates: int, samples: Any, folder: str) -> None:
        """An update was left out after `updates` good ones. UserError once `limit` of them came in a row.

        Batches are then in `folder`, of the ranks whose loss is not finite, or of all where only the gradient is not:
        torch.load gives {"samples": fairseq's samples, "num_updates": int}.
        """
        if isinstance(reason, LossScaleLowered):  # nothing is wrong with the batch
            if self._rank == 0:
                logger.info(f"update {updates + 1} left out: its gradient overflowed; {reason}")
            return
        self.total += 1
        self.in_a_row += 1
        self.log()
        if self._rank == 0:
            where = f" on rank {', '.join(map(str, self.bad_ranks))}" if self.bad_ranks else ""
            logger.warning(
                f"update {updates + 1} left out: its loss or gradient is not finite{where} ({self.in_a_row} in a row, "
                f"{self.total} in all)"
            )
        if isinstance(reason, LossScaleTooLow) or (self._limit and self.in_a_row >= self._limit):
            self._give_up(reason, updates, samples, folder)

    def _give_up(self, reason: NonFiniteUpdate, updates: int, samples: Any, folder: str) -> NoReturn:
        file = Path(folder) / (f"{BATCH_FILE}{self._rank or ''}.pt")
        said = f"the last of the batches is in {file}"
        if self.bad_ranks and self._rank not in self.bad_ranks:
            said = f"the last of the batches is in {folder}/{BATCH_FILE}{self.bad_ranks[0]}.pt"
        else:
            try:
                save_whole({"samples": samples, "num_updates": updates}, str(file))
            except OSError as error:
                said = f"the batch could not be written to {file} ({error.strerror})"
        what = f"the loss or the gradient was not finite {self.in_a_row} times in a row after update {updates}"
        if isinstance(reason, LossScaleTooLow):
            what = f"the gradient still overflows after update {updates}, with the lowest scale of the loss"
        raise UserError(
            f"{what}; {said}, and the checkpoints of {folder} are from before. A lower optimization.lr or "
            "optimization.clip_norm may help (task.max_nonfinite_updates says how many are borne)"
        )

    def log(self) -> None:
        """The metric, from the first one on."""
        if self.total:
            metrics.log_scalar(METRIC, self.total, weight=0, priority=710, round=0)

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the counts of a checkpoint."""
        self.total, self.in_a_row = state.get("total", 0), state.get("in_a_row", 0)
