"""fairseq's checkpoints, each of them whole at any moment, and a full disk that does not end a training.

fairseq renames a checkpoint when it is written, but does not force it to the disk first, and copies it to its other names
(checkpoint_last, checkpoint_best) in place: a run that is killed then leaves half a file under a name that it starts from.
"""

from __future__ import annotations

import errno
import logging
from contextlib import nullcontext
from functools import wraps
from typing import Any, BinaryIO

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from smoe_mt.files import atomic_file
from smoe_mt.training.whole_files import copy_whole

logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NoticingFile:
    """Keeps the OSError of a write, of which torch.save makes an error of its own that no longer says what it was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """As a file's."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As a file's."""
        self._file.flush()


def save_whole(state: Any, filename: str) -> None:
    """torch.save, whole or not at all. OSError where the file cannot be written."""
    with atomic_file(filename) as file:
        noticing = NoticingFile(file)
        try:
            torch.save(state, noticing)  # type: ignore[arg-type]  # of a file it only needs these two
        except Exception as error:
            if noticing.error is not None:
                raise noticing.error from error
            raise


def put_in_place() -> None:
    """Let fairseq save and copy so, and go on where the disk is full. Doing it again changes nothing."""
    if getattr(checkpoint_utils.save_checkpoint, "survives_a_full_disk", False):
        return
    _save_whole_files()
    _copy_whole_files()
    _survive_a_full_disk()


def _save_whole_files() -> None:
    original = checkpoint_utils.torch_persistent_save

    @wraps(original)
    def save(obj: Any, filename: str, async_write: bool = False) -> None:
        if PathManager.supports_rename(filename):
            save_whole(obj, filename)
        else:
            original(obj, filename, async_write)

    checkpoint_utils.torch_persistent_save = save


def _copy_whole_files() -> None:
    original = PathManager.copy

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not (PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
            return bool(original(src_path, dst_path, overwrite))
        copy_whole(src_path, dst_path)
        return True

    PathManager.copy = staticmethod(copy)


def _survive_a_full_disk() -> None:
    original = checkpoint_utils.save_checkpoint

    @wraps(original)
    def save_checkpoint(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        # fairseq keeps the best score as an attribute of the function that has this name, which is this one.
        before = vars(save_checkpoint).get("best")
        try:
            with getattr(trainer, "saving_together", nullcontext)():
                return original(cfg, trainer, *args, **kwargs)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            _restore_best(save_checkpoint, before)
            logger.error(
                f"CHECKPOINT NOT SAVED: no room left in {cfg.save_dir} ({error.strerror}). The training goes on, and the "
                "checkpoints saved before are whole; make room before the next one"
            )
            return None

    save_checkpoint.survives_a_full_disk = True  # type: ignore[attr-defined]
    checkpoint_utils.save_checkpoint = save_checkpoint


def _restore_best(function: Any, best: float | None) -> None:
    """A best model that was not saved must not keep the next one from being saved as the best."""
    if best is None:
        vars(function).pop("best", None)
    else:
        function.best = best
