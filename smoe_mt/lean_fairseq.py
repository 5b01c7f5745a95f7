"""fairseq's first import, without what nothing here uses, and without a trace in the logging of the program that asks for it."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

#: Modules that fairseq imports with itself, and which alone import scikit-learn and SciPy: a fifth of the start-up.
UNUSED = (
    "fairseq.criterions.sentence_prediction",
    "fairseq.criterions.sentence_prediction_adapters",
    "fairseq.tasks.audio_classification",
)

#: fairseq's module that prints a hint about a library which nothing here needs.
TALKATIVE = "fairseq.tasks.text_to_speech"


def leave_out_unused() -> None:
    """Let fairseq's first import in this process pass over `UNUSED`. Changes nothing where fairseq is there already.

    For programs that are ours from their first line; a process that fairseq itself started has everything.
    """
    if "fairseq" not in sys.modules:
        for name in UNUSED:
            sys.modules.setdefault(name, ModuleType(name, "Left out by smoe_mt.lean_fairseq."))


def import_fairseq() -> None:
    """Import fairseq, leaving the root logger, which fairseq sets to DEBUG with a handler of its own, as it was."""
    if "fairseq" not in sys.modules:
        with unchanged_logging():
            importlib.import_module("fairseq")


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Put back the root logger's level and handlers at the end; meanwhile fairseq gives no hints."""
    root, talkative = logging.getLogger(), logging.getLogger(TALKATIVE)
    level, handlers, hints = root.level, list(root.handlers), talkative.level
    talkative.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        talkative.setLevel(hints)
