"""fairseq's Trainer with a look at what a job starts from: its batch, its folder and disk, the checkpoint that it loads.

fairseq asks the task about a checkpoint (`load_state_dict`) when it translates, not when it resumes or fine-tunes: there a
checkpoint of another vocabulary would be a shape mismatch or, at equal sizes, silently garble every word. The Trainer cannot
be registered, so `put_in_place` swaps the name that fairseq-train builds it by.
"""

from __future__ import annotations

import sys
from typing import Any

import fairseq.trainer
import torch
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer

from smoe_mt.errors import UserError
from smoe_mt.training.batch import spread_over_ranks
from smoe_mt.training.disk import check_room
from smoe_mt.training.jobs import claim_folder, forget_previous_job
from smoe_mt.training.memory import keep_freed_memory
from smoe_mt.training.safe_loading import damaged

OTHER_MODEL = "Cannot load model parameters from checkpoint"  # what fairseq says of weights that do not fit


class CheckingTrainer(Trainer):
    """fairseq's Trainer that starts each job of a process afresh, spreads the batch over the ranks, says which checkpoints will
    be kept, lets the task check a checkpoint first, and on a CPU keeps the memory that a step frees.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_finetuning(self.cfg.checkpoint.finetune_from_model)
        forget_previous_job()
        claim_folder(self.cfg.checkpoint.save_dir)
        spread_over_ranks(self.cfg)
        if self.is_data_parallel_master:
            check_room(self.cfg, self._model)
        if self.device.type == "cpu":
            keep_freed_memory()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's. UserError for a file that is no whole checkpoint, or one of another model or vocabulary."""
        if PathManager.isfile(filename):
            self.task.load_state_dict(read_task_state(filename))
        try:
            return super().load_checkpoint(filename, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            if OTHER_MODEL not in str(error):
                raise
            raise UserError(
                f"{filename}: a checkpoint of another model than this one (sizes, experts or strata differ); train into "
                "another checkpoint.save_dir, or give the model's own settings"
            ) from error


def check_finetuning(checkpoint: str | None) -> None:
    """UserError where there is no checkpoint to start from."""
    if checkpoint and not PathManager.isfile(checkpoint):
        raise UserError(f"checkpoint.finetune_from_model: there is no checkpoint {checkpoint}")


def read_task_state(filename: str) -> dict[str, Any]:
    """What the task wrote into a checkpoint; the tensors stay on the disk. UserError for a damaged file."""
    try:
        state = torch.load(filename, map_location="cpu", mmap=True, weights_only=True)
        return dict(state.get("task_state") or {})
    except Exception as error:  # torch raises many types for a damaged file
        raise damaged(filename, error) from error


def put_in_place() -> None:
    """Let fairseq's command lines use the Trainer above. Doing it again changes nothing."""
    fairseq.trainer.Trainer = CheckingTrainer
    for name in ("fairseq_cli.train", "__main__"):  # the latter for python -m fairseq_cli.train
        module = sys.modules.get(name)
        if getattr(module, "Trainer", None) is Trainer:
            module.Trainer = CheckingTrainer  # type: ignore[union-attr]
