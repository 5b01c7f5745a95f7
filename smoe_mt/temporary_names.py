"""Temporary names of what is being written, locked (flock) by the process that writes, so that a later one can tell what a killed
process left, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_NAME = 255  # bytes, in the usual file systems
PARTIAL = ".partial"  # behind the name of a folder that several processes write together
MARK = "smoe"  # in every temporary name
TEMPORARY = re.compile(rf"\..+\.{MARK}-tmp-[0-9a-f]{{8}}")


def sweep(folder: Path, also: Iterable[str] = ()) -> list[Path]:
    """Remove what killed processes left under temporary names (and under names that match one of the patterns `also`), unless a
    living process holds it; returns it. Links are not followed.
    """
    removed = []
    patterns = (TEMPORARY, *map(re.compile, also))
    names = os.listdir(folder) if folder.is_dir() else []
    for path in (folder / name for name in sorted(names) if any(one.fullmatch(name) for one in patterns)):
        handle = unheld(path)
        if handle is None:
            continue
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(path)
        except OSError:  # another's, or gone by now
            continue
        finally:
            os.close(handle)
    return removed


_swept: set[str] = set()


def sweep_once(folder: Path) -> None:
    """A folder can be large, and what this process leaves it removes itself."""
    key = os.path.abspath(folder)
    if key not in _swept:
        _swept.add(key)
        with suppress(OSError):
            sweep(folder)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Lock a folder that is being written; `sweep` of another process leaves it alone. BlockingIOError where one holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock(handle):
            raise BlockingIOError(errno.EAGAIN, "another process is writing it")
        yield
    finally:
        os.close(handle)


def temporary_name(name: str, kind: str, token: str) -> str:
    """Names too long for another 20 bytes are cut and made unique by their checksum."""
    if len(os.fsencode(name)) > LONGEST_NAME - 30:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{MARK}-{kind}-{token}"


def claim(place: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary file or folder next to `place`, and the handle that locks it."""
    while True:
        temporary = place.with_name(temporary_name(place.name, "tmp", secrets.token_hex(4)))
        handle = make(temporary)
        with suppress(FileNotFoundError):
            if lock(handle) and os.path.samestat(os.fstat(handle), os.stat(temporary)):
                return temporary, handle
        os.close(handle)  # a process that sweeps has come between


def new_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def new_folder(path: Path) -> int:
    os.mkdir(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def lock(handle: int) -> bool:
    """Whether no other process holds the lock; where a file system has no locks, none does."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def unheld(path: Path) -> int | None:
    """A handle that locks a file or folder, unless another process holds it or nobody can tell. Close it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if stat.S_IFMT(os.fstat(handle).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
