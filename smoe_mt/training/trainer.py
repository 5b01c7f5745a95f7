"""fairseq's Trainer with a look at what a job starts from: its batch, its folder and disk, the checkpoint that it loads.

fairseq asks the task about a checkpoint (`load_state_dict`) when it translates, not when it resumes or fine-tunes: there a
checkpoint of another vocabulary would be a shape mismatch or, at equal sizes, silently garble every word. The Trainer cannot
be registered, so `put_in_place` swaps the name that fairseq-train builds it by.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import fairseq.trainer
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer

from smoe_mt.errors import UserError
from smoe_mt.training.batch import spread_over_ranks
from smoe_mt.training.disk import check_room
from smoe_mt.training.jobs import claim_folder, forget_previous_job
from smoe_mt.training.memory import keep_freed_memory
from smoe_mt.training.resuming import LAST, read_mapped, whole_checkpoint
from smoe_mt.training.whole_files import remove_leftovers

logger = logging.getLogger(__name__)

OTHER_MODEL = "Cannot load model parameters from checkpoint"  # what fairseq says of weights that do not fit


class CheckingTrainer(Trainer):
    """fairseq's Trainer that starts each job of a process afresh, spreads the batch over the ranks, says which checkpoints will
    be kept, lets the task check a checkpoint first, and on a CPU keeps the memory that a step frees.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_finetuning(self.cfg.checkpoint.finetune_from_model)
        check_writing(self.cfg.checkpoint)
        forget_previous_job()
        claim_folder(self.cfg.checkpoint.save_dir)
        spread_over_ranks(self.cfg)
        if self.is_data_parallel_master:
            clean_up(self.cfg.checkpoint.save_dir)
            check_room(self.cfg, self._model)
        if self.device.type == "cpu":
            keep_freed_memory()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, of the newest whole checkpoint should checkpoint_last be damaged.

        UserError where there is none, and for a file that is no whole checkpoint, or one of another model or vocabulary.
        """
        if PathManager.isfile(filename):
            filename = self._whole(filename)
            self.task.load_state_dict(read_mapped(filename).get("task_state") or {})
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

    def _whole(self, filename: str) -> str:
        """`filename`, or what all ranks go on from in its place, as the first rank found it."""
        if Path(filename) != Path(self.cfg.checkpoint.save_dir) / LAST:
            return filename
        found: str | UserError | None = None
        if self.data_parallel_rank == 0:
            try:
                found = str(whole_checkpoint(filename))
            except UserError as error:
                found = error
        if self.data_parallel_world_size > 1:
            group = self.data_parallel_process_group
            found = distributed_utils.broadcast_object(found, src_rank=0, group=group, dist_device=self.device)
        if isinstance(found, UserError):
            raise found
        return str(found)


def check_writing(settings: Any) -> None:
    """UserError for checkpoints written in the background, of which a killed run leaves half under their final name."""
    if settings.write_checkpoints_asynchronously:
        raise UserError(
            "checkpoint.write_checkpoints_asynchronously: a run killed meanwhile would leave half a checkpoint; leave it out"
        )


def clean_up(folder: str) -> None:
    """Remove what a killed run left half-written, and say so."""
    for path in remove_leftovers(folder):
        logger.warning(f"removed {path}, which an interrupted run left half-written")


def check_finetuning(checkpoint: str | None) -> None:
    """UserError where there is no checkpoint to start from."""
    if checkpoint and not PathManager.isfile(checkpoint):
        raise UserError(f"checkpoint.finetune_from_model: there is no checkpoint {checkpoint}")


def put_in_place() -> None:
    """Let fairseq's command lines use the Trainer above. Doing it again changes nothing."""
    fairseq.trainer.Trainer = CheckingTrainer
    for name in ("fairseq_cli.train", "__main__"):  # the latter for python -m fairseq_cli.train
        module = sys.modules.get(name)
        if getattr(module, "Trainer", None) is Trainer:
            module.Trainer = CheckingTrainer  # type: ignore[union-attr]
