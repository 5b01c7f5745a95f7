"""This process's own standard output and error: their faults name them, and a shell that has closed them does no harm."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from smoe_mt.errors import UserError

STDOUT = "standard output"


class _Output(io.FileIO):
    """A descriptor whose faults name it; one that is `lossy` has none."""

    def __init__(self, descriptor: int, label: str, lossy: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.label, self.lossy = label, lossy

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if self.lossy:
                return len(data)
            if isinstance(error, BrokenPipeError):
                raise
            raise OSError(error.errno, error.strerror, self.label) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """Names of files need not be in a terminal's encoding: what it lacks is shown as Python escapes it. Messages that cannot be
    shown are lost, and the exit code tells.
    """
    before = sys.stdout, sys.stderr
    for descriptor in range(3):  # else a file that is opened gets the number, and messages are written into it
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(sys.stderr, _Output(2, "standard error", lossy=True), line_buffering=True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(sys.stdout, _Output(1, STDOUT, lossy=False), bool(sys.stdout and sys.stdout.line_buffering))
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        sys.stdout, sys.stderr = before


def check_output_is_open() -> None:
    """UserError where the shell has closed standard output, before there is work to lose."""
    if sys.__stdout__ is None and isinstance(sys.stdout, io.TextIOWrapper):
        raise UserError("standard output is closed; send it to a file or to /dev/null")


def drop_output() -> None:
    """Let what is still to be written go nowhere: Python would complain once more when it flushes at its own end."""
    with suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _text(before: TextIO | None, raw: _Output, line_buffering: bool) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
    )
