"""Errors meant for the person at the keyboard."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from contextvars import ContextVar

from smoe_mt.context import set_to

_as_flags: ContextVar[bool] = ContextVar("settings are called by their flags", default=False)


class UserError(ValueError):
    """A mistake in what the user gave (arguments, configs, files): one line that says what is wrong, where, and what to do.

    The command line prints the message alone and exits with 2; library callers can catch it as a ``ValueError``.
    """


def one_line(error: BaseException) -> str:
    """What is printed for a mistake: names of files and values may hold line breaks and what a terminal would obey."""
    text = " ".join(str(error).split())
    return "error: " + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def naming_flags() -> AbstractContextManager[None]:
    """Within this, messages call settings by the flags of the command line: `setting`."""
    return set_to(_as_flags, True)


def setting(name: str) -> str:
    """How a message calls a setting that Python and the command line share: test_top_k, or --test-top-k for who typed that."""
    return f"--{name.replace('_', '-')}" if _as_flags.get() else name


def first_sentence(error: BaseException) -> str:
    """The first sentence of a library's error, which may go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].split(". ")[0] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def reason_of(error: OSError) -> str:
    """What the system says. "File exists" says nothing: it is about a folder that cannot be made in the place of a file."""
    return "a file is there, and no folder" if error.errno == errno.EEXIST else error.strerror or str(error)
