"""Folders that are written whole or not at all, and that keep files which others put into them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smoe_mt.files import look_at, writing
from smoe_mt.temporary_names import claim, holding, new_folder, sweep_once, sync, temporary_name, unheld

#: The names of the files in a folder that this project wrote there.
Ours = Callable[[Path], Iterable[str]]


@contextmanager
def atomic_directory(path: str | Path, ours: Ours = lambda _: ()) -> Iterator[Path]:
    """An empty folder next to `path` to fill with files; it becomes `path` when the block ends without an exception.

    Of a folder that is there, files whose names `ours(folder)` returns are removed, and all else moves into the new one (as
    NAME.earlier where the new one has a NAME). A process that is killed leaves one whole folder or the other at `path`, where
    the kernel can exchange two names; where it cannot, and for what has not moved yet, see `restore`. Raises CannotWrite.
    """
    place = Path(os.path.realpath(path))
    with writing(place):
        found = look_at(place, follow=False)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, "it is no folder")
        restore(place, ours)
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(place.parent)
        temporary, handle = claim(place, new_folder)
        try:
            yield temporary
            for part in (*temporary.iterdir(), temporary):
                sync(part)
            _put_in_place(temporary, place, ours)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(handle)


def restore(path: str | Path, ours: Ours = lambda _: ()) -> None:
    """Finish what an `atomic_directory` that was killed left undone: the earlier folder comes back, or what is not ours in it."""
    place = Path(os.path.realpath(path))
    pattern = re.compile(re.escape(temporary_name(place.name, "old", "")) + "[0-9a-f]{8}")
    for name in sorted(os.listdir(place.parent)) if place.parent.is_dir() else ():
        if pattern.fullmatch(name) and (handle := unheld(place.with_name(name))) is not None:
            earlier = place.with_name(name)
            try:
                if os.path.lexists(place):
                    _take_over(earlier, place, ours)
                else:
                    os.rename(earlier, place)
            finally:
                os.close(handle)


def _put_in_place(temporary: Path, place: Path, ours: Ours) -> None:
    if not os.path.lexists(place):
        os.rename(temporary, place)
        return sync(place.parent)
    with holding(place):
        os.chmod(temporary, stat.S_IMODE(place.stat().st_mode))
        earlier = place.with_name(temporary_name(place.name, "old", secrets.token_hex(4)))
        _swap(temporary, place, earlier)
        sync(place.parent)
        _take_over(earlier, place, ours)


def _swap(temporary: Path, place: Path, earlier: Path) -> None:
    """`temporary` becomes `place`, and what was there `earlier`; nothing has changed where this raises OSError."""
    os.rename(temporary, earlier)  # a name that nobody sweeps, as it will be the earlier folder's
    try:
        if exchange(earlier, place):
            return
    except OSError:
        os.rename(earlier, temporary)
        raise
    os.rename(earlier, temporary)
    os.rename(place, earlier)
    try:
        os.rename(temporary, place)
    except OSError:
        os.rename(earlier, place)
        raise


def _take_over(earlier: Path, place: Path, ours: Ours) -> None:
    names = set(ours(earlier))
    for name in sorted(os.listdir(earlier)):
        if name not in names:
            os.rename(earlier / name, place / _free_name(name, place, earlier))
    for name in sorted(names):
        (earlier / name).unlink(missing_ok=True)
    earlier.rmdir()


def _free_name(name: str, place: Path, earlier: Path) -> str:
    """`name`, where `place` has none of it, or NAME.earlier, NAME.earlier-2, ... that neither folder has."""
    if not os.path.lexists(place / name):
        return name
    names = (f"{name}.earlier", *(f"{name}.earlier-{number}" for number in range(2, 10_000)))
    return next(free for free in names if not any(os.path.lexists(folder / free) for folder in (place, earlier)))


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders, at once; False where this system or file system cannot."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    if renameat2(here, os.fsencode(first), here, os.fsencode(second), exchanging) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))


@contextmanager
def scratch_directory(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in `parent` for the time of the block; it may be renamed in it. Raises OSError."""
    sweep_once(parent)
    temporary, handle = claim(parent / name, new_folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)
