"""Updates whose loss or gradient is not finite: left out, counted, and after some in a row the end of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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


class NonFiniteUpdates:
    """Watches an update's losses and counts the updates that were left out.

    `limit`: as many in a row end the run; 0 = never.
    """

    def __init__(self, limit: int, criterion: nn.Module) -> None:
        self._limit = limit
        self._losses: list[Tensor] = []
        self.total = 0
        self.in_a_row = 0
        criterion.register_forward_hook(self._note_loss)

    def _note_loss(self, criterion: nn.Module, _inputs: Any, outputs: Any) -> None:
        if criterion.training:
            self._losses.append(outputs[0].detach().float())

    def begin(self) -> None:
        """Forget the losses of the update before."""
        self._losses.clear()

    def bad_loss(self) -> bool:
        """Whether a loss of this update is not finite, on this rank."""
        return bool(self._losses) and not bool(torch.stack(self._losses).isfinite().all())

    def good(self) -> None:
        """An update was made."""
        self.in_a_row = 0
        self.log()

    def left_out(self, updates: int, samples: Any, folder: str, rank: int) -> None:
        """An update was left out after `updates` good ones. UserError if it is the last that is borne.

        Its batch is then in `folder`: torch.load gives {"samples": fairseq's samples, "num_updates": int}.
        """
        self.total += 1
        self.in_a_row += 1
        self.log()
        logger.warning(
            f"update {updates + 1} left out: its loss or gradient is not finite ({self.in_a_row} in a row, "
            f"{self.total} in all)"
        )
        if not self._limit or self.in_a_row < self._limit:
            return
        file = Path(folder) / (f"{BATCH_FILE}{rank or ''}.pt")
        try:
            save_whole({"samples": samples, "num_updates": updates}, str(file))
            said = f"the last of the batches is in {file}"
        except OSError as error:
            said = f"the batch could not be written to {file} ({error.strerror})"
        raise UserError(
            f"the loss or the gradient was not finite {self.in_a_row} times in a row after update {updates}; {said}, and the "
            f"checkpoints of {folder} are from before. A lower optimization.lr or optimization.clip_norm may help "
            "(task.max_nonfinite_updates says how many are borne)"
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
