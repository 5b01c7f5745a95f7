"""Compares the files of a data folder with their checksums, once after each change.

A file is read through once: its SHA-256 is compared with that in corpus.json, its offsets and token ids are checked against
the sizes of file and vocabulary. What was found sound is remembered by size, inode and times of modification and change, in
the user's own cache folder and never in the data folder, where others could have written it. A copy of a folder, or a
file that was written again, is checked again; a change that leaves all of these as they were (of a failing disk, say) is
found by `--verify` alone.

Several processes that open a folder at once take turns: the first one checks, and the others find its record.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smoe_mt.checksums import BLOCK, sha256_file
from smoe_mt.errors import UserError
from smoe_mt.files import write_json
from smoe_mt.json_files import read_json_object
from smoe_mt.progress import bytes_bar
from smoe_mt.tasks.token_file import TokenFile

logger = logging.getLogger(__name__)

LARGE = 1 << 30  # bytes from which on the check is announced
SETTLED = 2_000_000_000  # ns after which a further change is sure to have another time
REMEDY = "prepare the data folder again, or copy it again from where it came"


@dataclass(frozen=True)
class Expected:
    """What a file has to be. `sha256`: None where corpus.json has no checksums; `vocabulary`: its size, of a .bin."""

    name: str
    sha256: str | None
    vocabulary: int | None = None


def verify(folder: Path, files: Sequence[Expected], anew: bool = False) -> None:
    """Check the files of a data folder that were not checked before; with `anew`, all of them.

    Raises UserError for the first one that is missing or not what it has to be.
    """
    for one in files:
        if not (folder / one.name).is_file():
            raise UserError(f"{folder / one.name} is missing: {REMEDY}")
    if not anew and not _unknown(folder, files, _Memory(folder).read()):
        return
    with _Memory(folder).locked() as known:
        todo = list(files) if anew else _unknown(folder, files, known)
        sizes = [(folder / one.name).stat().st_size for one in todo]
        if sum(sizes) >= LARGE:
            logger.info(f"checking {len(todo)} files of {folder} ({sum(sizes) / 1e9:,.1f} GB), once")
        with bytes_bar(sum(sizes), f"checking {folder.name}") as progress:
            for one in todo:
                known.pop(one.name, None)
                stamp = _stamp(folder / one.name, one)
                _check(folder / one.name, one, progress.update)
                if time.time_ns() - max(stamp[2:4]) > SETTLED and stamp == _stamp(folder / one.name, one):
                    known[one.name] = stamp


def _unknown(folder: Path, files: Sequence[Expected], known: dict[str, Any]) -> list[Expected]:
    return [one for one in files if known.get(one.name) != _stamp(folder / one.name, one)]


def _stamp(path: Path, one: Expected) -> list[Any]:
    """What a file that was checked is known by, and what it was checked against."""
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, one.sha256, one.vocabulary]


class _Memory:
    """The record of one data folder in the user's cache folder: name of a file -> its stamp."""

    def __init__(self, folder: Path) -> None:
        path = str(folder.resolve())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "smoe_mt" / "verified"
        self._file = cache / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"

    def read(self) -> dict[str, Any]:
        """Empty where there is no record, or none that this user wrote."""
        try:
            if self._file.stat().st_uid != os.getuid():
                return {}
            return read_json_object(self._file)
        except (OSError, UserError):
            return {}

    @contextmanager
    def locked(self) -> Iterator[dict[str, Any]]:
        """The record, to be changed; kept at the end, after an error too. Other processes wait meanwhile.

        Where the cache cannot be written, each process checks for itself.
        """
        with ExitStack() as stack:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = stack.enter_context(self._file.with_suffix(".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.read()
            try:
                yield known
            finally:
                with suppress(OSError):
                    write_json(self._file, known)


def _check(path: Path, one: Expected, progress: Callable[[int], Any]) -> None:
    """UserError for a file that is not what it has to be."""
    outside: int | None = None
    try:
        if one.vocabulary is None:
            found = sha256_file(path, progress)
        else:
            found, outside = _read_tokens(path, one.vocabulary, progress)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if one.sha256 is not None and found != one.sha256:
        raise UserError(f"{path} is not what was prepared (its SHA-256 differs from the one in corpus.json); {REMEDY}")
    if outside is not None:
        raise UserError(f"{path} holds token {outside}, and the vocabulary has {one.vocabulary:,} entries; {REMEDY}")
    if path.suffix == ".idx":
        TokenFile(path.with_suffix("")).check_offsets()


def _read_tokens(path: Path, vocabulary: int, progress: Callable[[int], Any]) -> tuple[str, int | None]:
    """SHA-256 of a .bin, and an id in it that is not of the vocabulary, if there is one."""
    dtype = TokenFile(path.with_suffix("")).dtype
    digest = hashlib.sha256()
    outside: int | None = None
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            tokens = np.frombuffer(block, dtype, len(block) // dtype.itemsize)
            wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
            if outside is None and len(wrong):
                outside = int(wrong[0])
            progress(len(block))
    return digest.hexdigest(), outside
