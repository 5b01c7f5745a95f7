"""fairseq's checkpoints, each of them whole at any moment, and a full disk that does not end a training.

fairseq renames a checkpoint when it is written, but does not force it to the disk first, and copies it to its other names
(checkpoint_last, checkpoint_best) in place: a run that is killed then leaves half a file under a name that it starts from.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import wraps
from typing import Any

from fairseq.file_io import PathManager

from smoe_mt.checkpoints.reading import allow_namespaces
from smoe_mt.fairseq_patches.patch import Patch, Setting
from smoe_mt.training.safe_loading import checked_loading
from smoe_mt.training.saving import NO_ROOM, save_whole
from smoe_mt.training.whole_files import copy_whole

logger = logging.getLogger(__name__)


def torch_persistent_save(original: Any) -> Any:
    """torch.save, whole or not at all."""

    @wraps(original)
    def save(obj: Any, filename: str, async_write: bool = False) -> None:
        if PathManager.supports_rename(filename):
            save_whole(obj, filename)
        else:
            original(obj, filename, async_write)

    return save


def path_manager_copy(original: Any) -> Any:
    """A copy that gets its name when it is whole."""

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not (PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
            return bool(original(src_path, dst_path, overwrite))
        copy_whole(src_path, dst_path)
        return True

    return staticmethod(copy)


def survive_a_full_disk(original: Any) -> Any:
    """Saving that logs a full disk as an error and continues, and that leaves out no interval of updates."""

    @wraps(original)
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: float | None) -> Any:
        if _named_by_updates(cfg, trainer, epoch_itr):
            epoch_itr = _WithinEpoch(epoch_itr)
        # fairseq keeps the best score as an attribute of the function that has this name, which is this one.
        before = vars(save_checkpoint).get("best")
        try:
            with getattr(trainer, "saving_together", nullcontext)():
                return original(cfg, trainer, epoch_itr, val_loss)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            _restore_best(save_checkpoint, before)
            logger.error(
                f"CHECKPOINT NOT SAVED: no space left in {cfg.save_dir} ({error.strerror}). The training continues, and "
                "earlier checkpoints are intact; free some space before the next one"
            )
            return None

    return save_checkpoint


def _named_by_updates(cfg: Any, trainer: Any, epoch_itr: Any) -> bool:
    """Whether an interval of updates ends together with an epoch that gets no checkpoint of its own."""
    if not epoch_itr.end_of_epoch() or cfg.save_interval_updates <= 0:
        return False
    of_epoch = not cfg.no_epoch_checkpoints and epoch_itr.epoch % cfg.save_interval == 0
    return not of_epoch and trainer.get_num_updates() % cfg.save_interval_updates == 0


class _WithinEpoch:
    """An epoch's iterator for fairseq's saving, which names a checkpoint by its updates in the midst of an epoch alone."""

    def __init__(self, epoch_itr: Any) -> None:
        self._epoch_itr = epoch_itr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoch_itr, name)

    def end_of_epoch(self) -> bool:
        """No."""
        return False


def _restore_best(function: Any, best: float | None) -> None:
    """A best model that was not saved must not keep the next one from being saved as the best."""
    if best is None:
        vars(function).pop("best", None)
    else:
        function.best = best


PATCHES = (
    Patch(
        "fairseq.checkpoint_utils.torch_persistent_save",
        torch_persistent_save,
        "a run that is killed while it saves leaves no half checkpoint",
        ("obj", "filename", "async_write"),
    ),
    Patch(
        "fairseq.file_io.PathManager.copy",
        path_manager_copy,
        "nor half a copy under checkpoint_last or checkpoint_best",
        ("src_path", "dst_path", "overwrite"),
    ),
    Patch(
        "fairseq.checkpoint_utils.save_checkpoint",
        survive_a_full_disk,
        "a full disk does not end a training, ranks that share experts save together, and an interval of updates that ends "
        "with an epoch has its checkpoint",
        ("cfg", "trainer", "epoch_itr", "val_loss"),
    ),
    Patch(
        "fairseq.checkpoint_utils.load_checkpoint_to_cpu",
        checked_loading,
        "a damaged checkpoint is reported in one line, and tensors may be in a folder next to it",
        ("path", "arg_overrides", "load_on_all_ranks"),
    ),
)
SETTINGS = (
    Setting(
        "torch.serialization.add_safe_globals",
        allow_namespaces,
        "fairseq keeps an argparse.Namespace in its checkpoints, which torch's safe loading refuses unless it is named",
    ),
)
