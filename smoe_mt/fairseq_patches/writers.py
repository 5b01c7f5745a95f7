"""No writer of logs or curves ends a training: what cannot be written is reported once, and training continues without it.

TensorBoard writes from a thread of its own, and raises what went wrong there at a later call: add_scalar, flush or close. Python's
logging prints a stack trace for each line that it cannot write.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from smoe_mt.fairseq_patches.patch import Patch

logger = logging.getLogger(__name__)

WRITER_THREAD = "_AsyncWriterThread"  # TensorBoard's
_unwritable: set[str] = set()


def summary_writer(original: Any) -> Any:
    """TensorBoard's writer, one that gives up quietly; None where TensorBoard is not installed."""
    return None if original is None else type("SummaryWriter", (CurvesIfPossible, original), {})


def _if_possible(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.given_up:
            return None
        try:
            return getattr(super(CurvesIfPossible, self), name)(*args, **kwargs)
        except (OSError, ValueError) as error:  # the latter: a file that is closed already
            self.given_up = True
            say_once(f"curves are no longer written to {self.folder}", error)
            return None

    method.__name__ = name
    return method


class CurvesIfPossible:
    """Before a SummaryWriter among the bases of a class: its calls never raise for a disk, and do nothing after one failed."""

    def __init__(self, log_dir: str, *args: Any, **kwargs: Any) -> None:
        self.given_up = False
        self.folder = log_dir
        try:
            super().__init__(log_dir, *args, **kwargs)  # type: ignore[call-arg]
        except OSError as error:
            self.given_up = True
            say_once(f"curves cannot be written to {log_dir}", error)

    add_scalar = _if_possible("add_scalar")
    add_text = _if_possible("add_text")
    flush = _if_possible("flush")
    close = _if_possible("close")


def say_once(what: str, error: BaseException) -> None:
    """A warning, once in a process; training continues."""
    if what not in _unwritable:
        _unwritable.add(what)
        reason = getattr(error, "strerror", None) or error
        logger.warning(f"{what} ({reason}); training continues")


def excepthook(previous: Any) -> Any:
    """What is printed of a thread's exception: of a writer's thread nothing, for the next call of the writer says it."""

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (type(args.thread).__name__ == WRITER_THREAD and isinstance(args.exc_value, OSError)):
            previous(args)

    return hook


def handle_error(original: Any) -> Any:
    """What is printed of a line that cannot be logged."""

    @wraps(original)
    def handle(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, UnicodeError)):
            original(self, record)
            return
        what = f"the log cannot be written to {getattr(self, 'baseFilename', 'its stream')}"
        if what not in _unwritable:
            _unwritable.add(what)
            reason = error.strerror if isinstance(error, OSError) else error
            _to_the_screen(f"warning: {what} ({reason}); training continues")

    return handle


def _to_the_screen(line: str) -> None:
    """Past the logging, whose file has failed."""
    try:
        print(line, file=sys.stderr)
    except OSError:  # nowhere to say it
        return


PATCHES = (
    Patch("fairseq.logging.progress_bar.SummaryWriter", summary_writer, "a full disk ends curves, not the training"),
    Patch("threading.excepthook", excepthook, "the thread of TensorBoard's writer prints a stack trace"),
    Patch(
        "logging.Handler.handleError", handle_error, "on a full disk, a stack trace for each line", ("self", "record")
    ),
)
