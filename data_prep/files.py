"""Writing files whole or not at all, and saying plainly when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from smoe_mt.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def say(message: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    tqdm.write(message, file=sys.stderr)


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: nobody sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One string a line, UTF-8, through a temporary name."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as out:
        out.writelines(line + "\n" for line in lines)
    os.replace(temporary, path)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their newline."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield line.rstrip("\n")


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, keys in the order in which they were put in."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file, or ``None`` if the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
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
    """Turn a full disk and files that may not be read or written into one line for the user; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise UserError(f"{error.filename or where}: {error.strerror}; check its permissions") from error
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"no space left on the disk while writing {error.filename or where}: free some space "
            "and run the same command again (finished stages are kept)"
        ) from error
