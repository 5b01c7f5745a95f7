"""Files and folders that get their name only once they are whole and on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smoe_mt.errors import UserError

PARTIAL = ".partial"  # behind the name of what is being written, where another process may have to know it


@contextmanager
def beside(path: str | Path, suffix: str | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends without an exception, which passes.

    `suffix` follows the name of `path`; without one, it is that of this process alone.
    """
    path = Path(path)
    temporary = path.with_name(path.name + (suffix or f".tmp-{os.getpid()}"))
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot sync a folder, and the file itself is safe
        sync(path.parent)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """As `beside`. Raises UserError where that place cannot be written."""
    try:
        with beside(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it becomes `path`, in place of what was there, when the block ends.

    Raises UserError where that place cannot be written.
    """
    path = Path(path).absolute()
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    earlier = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for part in (*temporary.iterdir(), temporary):
            sync(part)
        if path.exists():
            os.rename(path, earlier)
        os.rename(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(earlier, ignore_errors=True)
        elif earlier.exists():
            os.rename(earlier, path)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
