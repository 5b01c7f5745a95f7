"""Copies that are whole or not there, and what killed runs leave in a run folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from smoe_mt.files import atomic_file
from smoe_mt.temporary_names import PARTIAL, sweep

#: Names beside the temporary ones of `atomic_file`: a folder of tensors, earlier versions' checkpoints, fairseq's.
LEFTOVERS = (rf"shards_\d+(_\d+)?{re.escape(PARTIAL)}", rf".+\.pt{re.escape(PARTIAL)}", r".+\.pt\.tmp")


def copy_whole(source: str | Path, target: str | Path) -> None:
    """Copy a file; the copy is whole or not there. A file system that can share blocks between files does."""
    with open(source, "rb") as original, atomic_file(target) as copy:
        try:
            _copy_by_file_system(original, copy)
        except (AttributeError, OSError):  # not Linux, or a file system that cannot; from the start then
            original.seek(0)
            copy.seek(0)
            copy.truncate()
            shutil.copyfileobj(original, copy, 1 << 20)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove what a killed run left half-written in a folder, unless another process is writing it, and return it."""
    return sweep(Path(folder), LEFTOVERS)


def _copy_by_file_system(original: BinaryIO, copy: BinaryIO) -> None:
    left = os.fstat(original.fileno()).st_size
    while left > 0:
        copied = os.copy_file_range(original.fileno(), copy.fileno(), left)
        if not copied:
            raise OSError("the file system copied nothing")
        left -= copied
