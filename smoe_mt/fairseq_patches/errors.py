"""A user's mistake is one line on the screen, in fairseq's command lines as in ours.

fairseq-train, -generate and -interactive let an exception run up to Python, which prints a stack trace; under
fairseq-hydra-train, Hydra catches it and prints its own. For a `UserError` both print `error: ...` instead, and where
another rank has gone, which one.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from smoe_mt.errors import UserError, one_line
from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.training.rank_failure import diagnose_peer_failure

EXIT_CODE = 2


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError that `error` is, or that it was raised from on purpose or while handling."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def system_error(error: BaseException | None) -> UserError | None:
    """What the system says of a file, as a mistake: it may not be read, its name is too long, its disk is full."""
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(f"{str(error.filename)[:200]}: {error.strerror}")
    return None


def excepthook(previous: Any) -> Any:
    """Python's last word on an exception, in the short form for a `UserError`."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        mistake = user_error_in(error) or diagnose_peer_failure(error) or system_error(error)
        if mistake is None:
            previous(kind, error, trace)
        else:
            print(one_line(mistake), file=sys.stderr)

    return hook


def return_value(original: Any) -> Any:
    """Hydra keeps a job's exception and raises it where the job's result is asked for: of all its jobs, after the last one."""
    from hydra.core.utils import JobReturn, JobStatus

    def value(self: JobReturn) -> Any:
        failed = self._return_value if self.status == JobStatus.FAILED else None
        mistake = user_error_in(failed) or diagnose_peer_failure(failed) or system_error(failed)
        if mistake is None:
            return original.fget(self)
        print(one_line(mistake), file=sys.stderr)
        raise SystemExit(EXIT_CODE)

    return original.getter(value)


PATCHES = (
    Patch("sys.excepthook", excepthook, "a UserError is one line on the screen, not a stack trace"),
    Patch("hydra.core.utils.JobReturn.return_value", return_value, "the same where Hydra reports what a job raised"),
)
