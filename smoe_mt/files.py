"""Files that are whole or not there, outputs that a person named, and names that come from files.

A file has a temporary name in its folder until it is whole and on the disk.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from smoe_mt.errors import UserError, reason_of
from smoe_mt.temporary_names import LONGEST_NAME, claim, new_file, sweep_once, sync

#: Names of files may hold bytes that are no UTF-8: they are shown as Python escapes them.
_TEXT: Any = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
STREAMS = (stat.S_ISFIFO, stat.S_ISCHR)  # what is written straight, as it cannot be replaced


class CannotWrite(UserError, OSError):
    """A file or folder that cannot be written: one line for the person, the errno for code that continues on a full disk."""

    def __init__(self, path: str, code: int | None, reason: str) -> None:
        super().__init__(path, code, reason)
        self.errno, self.strerror, self.filename = code, reason, path

    def __str__(self) -> str:
        return f"{_shown(self.filename)}: cannot be written ({self.strerror})"


def open_plain(path: str | Path) -> BinaryIO:
    """A plain file, or the end of links to one, to read. OSError for others: a pipe or a device in a folder from elsewhere
    would keep its reader waiting, or never end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, no file", str(path))
    return open(handle, "rb")


# --- writing files ---


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends without an exception, which passes.

    A link at `path` is replaced, not followed: use `output` for what a person named. Raises CannotWrite.
    """
    place = Path(path)
    with writing(place):
        sweep_once(place.parent)
        found = look_at(place, follow=False)
        if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise UserError(f"{place} is {kind_of(found.st_mode)}, no file; move it away")
        temporary, handle = claim(place, new_file)
        try:
            yield temporary
            sync(temporary)
            if found is not None and stat.S_ISREG(found.st_mode):
                os.chmod(temporary, stat.S_IMODE(found.st_mode))
            os.replace(temporary, place)
        finally:
            os.close(handle)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        with suppress(OSError):  # some file systems cannot sync a folder, and the file itself is safe
            sync(place.parent)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """As `atomic_path`, opened for bytes."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        yield stream


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """As `atomic_path`, opened for UTF-8 text with line feeds."""
    with atomic_path(path) as temporary, open(temporary, "w", **_TEXT) as stream:
        yield stream


def write_bytes(path: str | Path, content: bytes) -> None:
    """A file of these bytes, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(content)


def write_text(path: str | Path, text: str) -> None:
    """UTF-8 text, whole or not at all."""
    with atomic_text(path) as stream:
        stream.write(text)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """One string a line, whole or not at all."""
    with atomic_text(path) as stream:
        stream.writelines(line + "\n" for line in lines)


def write_json(path: str | Path, value: Any) -> None:
    """JSON for people too: indented, readable letters, keys in the order in which they were put in."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make CannotWrite of an OSError in the block, unless it names another file or the reader of a pipe has gone."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except OSError as error:
        named = error.filename
        if isinstance(named, (str, bytes)) and not Path(os.fsdecode(named)).absolute().is_relative_to(
            path.parent.absolute()
        ):
            raise
        raise CannotWrite(str(path), error.errno, reason_of(error)) from error


# --- outputs that a person named ---


@contextmanager
def output(path: str | Path) -> Iterator[TextIO]:
    """The output that a person named, opened for UTF-8 text.

    A file is written whole or not at all, at the end of its links. A pipe, a character device and the file that is this
    process's own standard output are written straight. Raises CannotWrite, and UserError for folders and sockets.
    """
    if not _is_stream(path):
        with atomic_text(output_file(path)) as stream:
            yield stream
        return
    own = _own_output(path)
    with writing(Path(path)):
        where = path if own is None else os.dup(own)  # opened anew, it would have a position of its own in a file
        with open(where, "a" if own is None else "w", **_TEXT) as stream:
            yield stream


def output_file(path: str | Path) -> Path:
    """Where the file that a person named will lie: the end of its links. UserError for what is not a plain file, and where
    there is no folder for it that can be written.
    """
    with writing(Path(path)):
        found = look_at(Path(path), follow=True)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is {kind_of(found.st_mode)}; give the name of a file")
        place = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
        if not place.parent.is_dir():
            raise UserError(f"{path}: there is no folder {place.parent.absolute()}")
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return place


def check_output(path: str | Path) -> None:
    """UserError for an output that `output` would refuse, before there is work to lose."""
    if not _is_stream(path):
        output_file(path)


def _is_stream(path: str | Path) -> bool:
    with writing(Path(path)):
        found = look_at(Path(path), follow=True)
    return found is not None and (any(kind(found.st_mode) for kind in STREAMS) or _own_output(path) is not None)


def _own_output(path: str | Path) -> int | None:
    """This process's standard output or error, where `path` is that."""
    with suppress(OSError):
        return next((own for own in (1, 2) if os.path.samestat(os.stat(path), os.fstat(own))), None)
    return None


def look_at(path: Path, follow: bool) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=follow)
    except FileNotFoundError:
        return None


def kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")


# --- names that come from files ---


def checked_name(name: object, where: str | Path) -> str:
    """`name`, if it can be the name of a file in a folder and leads nowhere else. UserError, with `where` it was read, if not."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not any(map(_leads_elsewhere, name))
    if plain and len(os.fsencode(str(name))) <= LONGEST_NAME:
        return str(name)
    raise UserError(f"{where}: {_shown(repr(name))} cannot be the name of a file; take the file from where it was made")


def path_inside(folder: Path, name: object, where: str | Path) -> Path:
    """The path of a file in `folder` or in folders below it, by a name that was read from a file, with "/" between its parts.

    UserError for a name that leads elsewhere, also over a link to another folder.
    """
    path = folder
    parts = name.split("/") if isinstance(name, str) else [name]
    for part in parts[:-1]:
        path = path / checked_name(part, where)
        if path.is_symlink():
            raise UserError(f"{where}: {_shown(name)!r} leads over a link, {path}; put the folder itself there")
    return path / checked_name(parts[-1], where)


def _leads_elsewhere(letter: str) -> bool:
    return letter in "/\\" or unicodedata.category(letter) in ("Cc", "Cs")


def _shown(text: Any) -> str:
    """Short enough for a line."""
    text = str(text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
