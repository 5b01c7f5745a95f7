"""Files that are whole or not there: written beside their name, forced to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from smoe_mt.files import PARTIAL, beside


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when the block ends well; what had the name before stays until then.

    Raises:
        OSError: no room, or no right to write there. The part that was written is removed.
    """
    with beside(path, PARTIAL) as partial, open(partial, "wb") as file:
        yield file


def copy_whole(source: str | Path, target: str | Path) -> None:
    """Copy a file; the copy is whole or not there. A file system that can share blocks between files does."""
    with open(source, "rb") as original, whole_file(target) as copy:
        try:
            _copy_by_file_system(original, copy)
        except (AttributeError, OSError):  # not Linux, or a file system that cannot; from the start then
            original.seek(0)
            copy.seek(0)
            copy.truncate()
            shutil.copyfileobj(original, copy, 1 << 20)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove what a killed run left half-written in a folder, and return it."""
    found = sorted(Path(folder).glob(f"*.pt{PARTIAL}")) + sorted(Path(folder).glob("*.pt.tmp"))  # the latter: fairseq's
    folders = sorted(Path(folder).glob(f"shards_*{PARTIAL}"))
    for path in found:
        path.unlink(missing_ok=True)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
    return found + folders


def _copy_by_file_system(original: BinaryIO, copy: BinaryIO) -> None:
    left = os.fstat(original.fileno()).st_size
    while left > 0:
        copied = os.copy_file_range(original.fileno(), copy.fileno(), left)
        if not copied:
            raise OSError("the file system copied nothing")
        left -= copied

