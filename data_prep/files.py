"""Reading files, and saying plainly when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from smoe_mt import json_files
from smoe_mt.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def say(message: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    tqdm.write(message, file=sys.stderr)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their newline."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield line.rstrip("\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file, or ``None`` if the file is missing or broken. UserError for one that may not be read."""
    if not path.is_file():
        return None
    try:
        return json_files.read_json(path, "check its permissions")
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return None


def check_space(folder: Path, needed: int, what: str) -> None:
    """UserError if the disk of a folder has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {what} need about {needed / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB free: "
            "free some space or give another folder"
        )


@contextlib.contextmanager
def disk_errors_are_said(where: Path) -> Iterator[None]:
    """Turn a full disk and files that may not be read or written into one line for the user, as whatever else is wrong with a file."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise UserError(f"{error.filename or where}: {error.strerror}; check its permissions") from error
        if error.errno not in DISK_FULL:
            if error.filename is None:
                raise
            raise UserError(f"{error.filename}: {error.strerror}") from error
        raise UserError(
            f"no space left on the disk while writing {error.filename or where}: free some space "
            "and run the same command again (finished stages are kept)"
        ) from error
