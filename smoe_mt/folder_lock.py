"""One process at a time in a folder: a lock file that says who has it, and that no longer counts once that process has ended.

The file appears whole under its name (a link to a finished one, which works on NFS too). It is held by a process, and the next
one takes it over where that process has ended: it is not on this machine any more, or another process has its number (their
start times differ), or the scheduler has started the same job again since. Whether a process of another machine lives cannot
be seen, so its lock stays until someone removes the file.
"""

from __future__ import annotations

import errno
import getpass
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.files import open_plain, writing
from smoe_mt.json_files import parse_json
from smoe_mt.json_forms import Named, fits
from smoe_mt.temporary_names import claim, holding, new_file, unheld

LOCK = ".smoe.lock"
FORM = {
    "what": str,
    "host": str,
    "pid": int,
    "pids": str,
    "started": str,
    "since": str,
    "user": str,
    "attempts": Named(int),
}
LARGEST = 1 << 14  # bytes
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
TRIES, PAUSE = 100, 0.05  # while another process takes over the same lock
#: What counts the attempts of one job: variables with its name and with the number of the attempt.
ATTEMPTS = (("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"))
PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that has a folder, as its lock file describes it."""

    #: What it does, as in "a training".
    what: str
    host: str
    pid: int
    #: The space of process numbers that `pid` belongs to (containers have their own); empty where unknown.
    pids: str
    #: Of the process, in the kernel's clock ticks; empty where unknown.
    started: str
    #: For people.
    since: str
    user: str = ""
    #: Job of a scheduler or launcher -> the number of its attempt.
    attempts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def this_process(cls, what: str) -> Holder:
        """The calling process."""
        _, started = _process(os.getpid())
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z").strip()
        return cls(what, socket.gethostname(), os.getpid(), _pids(), started, since, _user(), _attempts(os.environ))

    def has_ended(self, lock: Path) -> bool:
        """Whether the process is known to have ended; its lock file is `lock`."""
        same_host = self.host == socket.gethostname()
        if same_host and self.pids == _pids():
            lives, started = _process(self.pid)
            return not lives or (bool(started and self.started) and started != self.started)
        if any(number > self.attempts.get(job, number) for job, number in _attempts(os.environ).items()):
            return True
        # A container of the same name: its processes cannot be seen, but what they have locked can.
        handle = unheld(lock) if same_host else None
        if handle is not None:
            os.close(handle)
        return handle is not None

    def __str__(self) -> str:
        who = f"process {self.pid}" + (f" of {self.user}" if self.user not in ("", _user()) else "")
        return f"{self.what} ({who} on {self.host}, since {self.since})"


class FolderLock:
    """A folder that this process has for itself until `release`, or until it ends. Made by `take`; a context manager, too."""

    def __init__(self, place: Path, handle: int) -> None:
        self._place, self._handle, self._pid = place, handle, os.getpid()

    @classmethod
    def take(cls, folder: str | Path, what: str, instead: str) -> FolderLock:
        """Lock a folder, which is made where it is missing.

        `what`: what this process does ("a training"); `instead`: what someone may do who cannot wait ("choose another --out").
        Raises UserError, naming the holder, where a process has it that may live, and CannotWrite.
        """
        place = Path(folder) / LOCK
        with writing(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary, handle = claim(place, new_file)
            try:
                os.write(handle, json.dumps(asdict(Holder.this_process(what))).encode())
                os.fsync(handle)
                for _ in range(TRIES):
                    if _put(temporary, handle, place):
                        return cls(place, handle)
                    if not _remove_of_ended(place, instead):
                        time.sleep(PAUSE)
                raise UserError(f"{place.parent}: other processes start in it at the same time; start again")
            except BaseException:
                os.close(handle)
                raise
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the folder to others. Doing it again, or in a forked process, changes nothing."""
        if self._handle < 0 or self._pid != os.getpid():
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._handle), os.lstat(self._place)):
                self._place.unlink()
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> FolderLock:  # noqa: PYI034
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def may_be_held(folder: Path) -> bool:
    """Whether a process has a folder, as far as can be seen from here; it is not taken, and need not be writable."""
    try:
        holder = _read(folder / LOCK)
    except UserError:  # a lock that names nobody
        return True
    return holder is not None and not holder.has_ended(folder / LOCK)


def _put(temporary: Path, handle: int, place: Path) -> bool:
    """Give the file its name. False where the name is taken."""
    try:
        os.link(temporary, place)
    except FileExistsError:
        return os.fstat(handle).st_nlink > 1  # of a link that NFS made before its answer was lost
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            return False
        os.replace(temporary, place)
    return True


def _remove_of_ended(place: Path, instead: str) -> bool:
    """Remove the lock of a process that has ended; False where another process is about to. UserError where it may live."""
    try:
        with holding(place.parent):  # of all who find it, one removes it; others would remove that one's own
            holder = _read(place)
            if holder is None:
                return True
            if not holder.has_ended(place):
                raise UserError(_in_use(place, holder, instead))
            place.unlink()
            return True
    except BlockingIOError:
        return False


def _in_use(place: Path, holder: Holder, instead: str) -> str:
    if holder.host == socket.gethostname():
        return f"{place.parent} is in use by {holder}: wait for it, or {instead}"
    return (
        f"{place.parent} is in use by {holder}, unless that has ended, which {socket.gethostname()} cannot see: wait for it, "
        f"or {instead}; if it has ended, remove {place}"
    )


def _read(place: Path) -> Holder | None:
    """The holder that a lock file names; None where there is no file any more. UserError for a file that names none."""
    for _ in range(TRIES):
        try:
            with open_plain(place) as stream:
                content = stream.read(LARGEST)
        except FileNotFoundError:
            if not place.is_symlink():
                return None
            break
        except OSError as error:
            raise UserError(
                f"{place}: cannot be read ({error.strerror}); remove it if nothing runs in this folder"
            ) from error
        with suppress(ValueError):
            value: Any = parse_json(content)
            if fits(value, FORM):
                return Holder(**{name: value[name] for name in FORM})
        if content:
            break
        time.sleep(PAUSE)  # without links it is empty for a moment
    raise UserError(f"{place} does not say which process has this folder; remove it if nothing runs here")


def _process(pid: int) -> tuple[bool, str]:
    """Whether a process of this number lives, and when it started; empty where unknown."""
    if pid < 1:
        return False, ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False, ""
    except OSError:  # another user's
        pass
    try:
        # After the name, which may have spaces and brackets in it: state, ..., and as the 20th the start time.
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return True, ""
    return fields[0] not in "ZX", fields[19]


def _pids() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name
        return str(os.getuid())


def _attempts(environment: Mapping[str, str]) -> dict[str, int]:
    found = {}
    for name, number in ATTEMPTS:
        job, count = environment.get(name, ""), environment.get(number, "0")
        if job not in ("", "none") and count.isdecimal():
            found[f"{name}={job}"] = int(count)
    return found
