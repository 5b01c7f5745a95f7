"""What a training finds when it starts, looked at before text is loaded or a model is built: the checkpoint to start from, the
text to train and to validate on, and a folder that no other process writes to.

fairseq trains from scratch where a checkpoint that was named is not there.
"""

from __future__ import annotations

import atexit
from functools import partial
from pathlib import Path
from typing import Any

from fairseq.dataclass.utils import merge_with_parent
from fairseq.file_io import PathManager

from smoe_mt.checkpoints.names import CHECKPOINT_NAMES, LAST
from smoe_mt.errors import UserError
from smoe_mt.folder_lock import FolderLock
from smoe_mt.process_group import by_one_process
from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.tasks.data_folder import DataFolder
from smoe_mt.tasks.many_to_many_translation import chosen_directions
from smoe_mt.training.resuming import checkpoints_beside
from smoe_mt.training.trackers import check_installed

TASK = "many_to_many_translation"
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")
WITHOUT_VALIDATION = "dataset.disable_validation=true trains without one"

_locks: list[FolderLock] = []


def begin(cfg: Any) -> None:
    """Look at what the training starts from, and lock its folder until `end`: in the first rank, for all of them.

    Raises UserError, on all ranks, for a checkpoint or text that is not there, and where another process has the folder.
    """
    by_one_process(partial(_begin, cfg))


def end() -> None:
    """Give the folder to others. Without a training, nothing."""
    while _locks:
        _locks.pop().release()


def _begin(cfg: Any) -> None:
    end()  # of the job before, in a multirun
    check_installed(cfg)
    check_starting_point(cfg.checkpoint)
    if getattr(cfg.task, "_name", None) == TASK:
        check_text(cfg)
    _locks.append(FolderLock.take(cfg.checkpoint.save_dir, "a training", "choose another checkpoint.save_dir"))
    atexit.register(end)


# --- the checkpoint to start from ---


def check_starting_point(settings: Any) -> None:
    """UserError for a checkpoint that was named and is not there, and for something to reset where there is no checkpoint.

    `settings`: fairseq's section `checkpoint`.
    """
    suffix = settings.checkpoint_suffix or ""
    if settings.restore_file != LAST:
        _check_file("restore_file", settings.restore_file.replace(".pt", f"{suffix}.pt"), Path(settings.save_dir))
        return
    last = Path(settings.save_dir) / LAST.replace(".pt", f"{suffix}.pt")
    if PathManager.exists(str(last)):
        return  # the run goes on from there, whatever it began with
    for name in ("continue_once", "finetune_from_model"):
        if settings.get(name):
            _check_file(name, settings[name], Path(settings.save_dir))
            return
    resets = [f"checkpoint.{name}" for name in RESETS if settings[name]]
    if resets and not checkpoints_beside(last):
        raise UserError(
            f"{', '.join(resets)}: there is no checkpoint to take up ({last} does not exist): give checkpoint.restore_file, "
            f"or leave {'it' if len(resets) == 1 else 'them'} out"
        )


def _check_file(name: str, path: str, save_dir: Path) -> None:
    if PathManager.isfile(path):
        return
    said = f"checkpoint.{name}={path}: there is no such checkpoint"
    near = [save_dir / path, *(Path(path) / one for one in CHECKPOINT_NAMES)]
    found = next((one for one in near if one.is_file()), None)
    raise UserError(f"{said}; did you mean {found}?" if found else f"{said}; give the path of a .pt file that is there")


# --- the text ---


def check_text(cfg: Any) -> None:
    """UserError for a subset that the data folder lacks, and for a best metric of a direction that is not validated.

    `cfg`: a whole configuration of a training of ours.
    """
    # A configuration of fairseq-hydra-train has what was given alone.
    task = merge_with_parent(ManyToManyTranslationConfig(), cfg.task)
    ManyToManyTranslationConfig.check(task)
    folder = DataFolder.open(task.data)
    dataset = cfg.dataset
    _check_subset(folder, "train_subset", dataset.train_subset)
    directions = chosen_directions(task, folder)
    if dataset.disable_validation:
        return
    subsets = ["valid"] if dataset.combine_valid_subsets else dataset.valid_subset.split(",")
    if folder.splits() == (dataset.train_subset,):
        raise UserError(
            f"{folder.path} has no text to validate on, only {dataset.train_subset}: prepare it with some (--valid-size), or "
            f"leave validation out ({WITHOUT_VALIDATION})"
        )
    for subset in subsets:
        _check_subset(folder, "valid_subset", subset)
        if subset == dataset.train_subset:
            raise UserError(
                f"dataset.valid_subset={dataset.valid_subset}: {subset} is what is trained on, and its loss chooses no model; "
                f"give another subset ({WITHOUT_VALIDATION})"
            )
        if not any(folder.has(subset, name) for name in directions):
            raise UserError(
                f"dataset.valid_subset={dataset.valid_subset}: none of {', '.join(directions)} has text in {subset} of "
                f"{folder.path}; {WITHOUT_VALIDATION}"
            )
    _check_direction_of_metric(cfg.checkpoint.best_checkpoint_metric, subsets[0], directions, folder)


def _check_subset(folder: DataFolder, setting: str, subset: str) -> None:
    if subset not in folder.splits():
        instead = "" if setting == "train_subset" else f"; {WITHOUT_VALIDATION}"
        raise UserError(
            f"dataset.{setting}: {folder.path} has no subset {subset!r}, but {', '.join(folder.splits()) or 'none'}{instead}"
        )


def _check_direction_of_metric(metric: str, subset: str, directions: tuple[str, ...], folder: DataFolder) -> None:
    _, slash, direction = metric.partition("/")
    validated = [name for name in directions if folder.has(subset, name)]
    if slash and direction not in validated:
        raise UserError(
            f"checkpoint.best_checkpoint_metric={metric}: {subset} has no text of {direction!r}, but of {', '.join(validated)}"
        )
