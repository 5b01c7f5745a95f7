"""What ``smoe-mt train`` shows of a training: its opening, progress, what is wrong, its end. The log file has all.

Progress is one line, drawn over itself at a terminal; elsewhere a line each `common.log_interval` updates.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from smoe_mt.library_messages import TRAINING_DONE
from smoe_mt.terminal_lines import TerminalLines, bar, can_draw

#: INFO of these is in the opening already, or for the file alone.
IN_THE_FILE = ("smoe_mt.tasks.many_to_many_translation", "smoe_mt.training.batch")
#: fairseq's loggers of progress.
TRAIN, VALID = "train_inner", "valid"
#: What fairseq's main function says at the end.
DONE = re.compile(rf"{TRAINING_DONE} ([0-9.]+) seconds")
SHOWN = ("loss", "ppl", "bleu", "wps")
NAMES = {"wps": "tokens/s", "bleu": "BLEU"}
# "loss=8.9, ppl=338.74", "loss 7.243 | bleu 1.56" and '"valid_loss": "7.243"'
# "update 1,900 of 4,000: loss 5.7", as `progress` writes it
UPDATE = re.compile(r"update ([\d,]+) of ([\d,]+)(?:: )?(.*)")
#: How the last line of a job begins (``closing``).
ENDED = "ended ("
EVERY = 0.3  # seconds between two drawings of a line
NUMBER = re.compile(r'(?<![\w/.])"?(?:train_|valid_)?(\w+)"?(?:=|: "?| )(-?[0-9][0-9.e+-]*)"?(?=[,\s}]|$)')


class ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Of a training's log the lines for people; Hydra makes it in place of its own handler of the console."""

    #: The last update of the job, for the time that is left; None where it is not known.
    last_update: int | None = None
    #: Seconds -> the line that the job ends with; None before it has begun.
    closing: Callable[[float], str] | None = None
    #: The line of the job, where it is drawn at a terminal.
    line: LiveLine | None = None

    def __init__(self, stream: Any = None) -> None:
        super().__init__(stream or sys.stdout)
        ConsoleHandler.line = LiveLine(self.stream) if can_draw(self.stream) else None

    def emit(self, record: logging.LogRecord) -> None:
        """At a terminal progress is drawn in place, and all else stays above it."""
        if self.line is None:
            super().emit(record)
            return
        try:
            text = self.format(record)
            if record.name == TRAIN and UPDATE.fullmatch(text):
                self.line.show(text)
            else:
                self.line.terminal.above(text)
            if self._ends(record):
                self.line.terminal.clear()
        except Exception:  # noqa: BLE001 - as logging's own handlers: what cannot be written never ends a program
            self.handleError(record)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is shown."""
        if record.levelno >= logging.WARNING or record.name in (TRAIN, VALID) or self._ends(record):
            return True
        return record.name.startswith("smoe_mt") and record.name not in IN_THE_FILE

    def format(self, record: logging.LogRecord) -> str:
        """Plain text; progress in the form of `progress`."""
        message = record.getMessage()
        if (end := self._ends(record)) and self.closing is not None:
            return self.closing(float(end[1]))
        if record.name in (TRAIN, VALID):
            return progress(message, record.name == VALID, self.last_update) or message
        if record.exc_info:
            return super().format(record)
        return f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message

    def _ends(self, record: logging.LogRecord) -> re.Match[str] | None:
        """The last message of a job that has begun."""
        return DONE.match(record.getMessage()) if self.closing is not None else None


class LiveLine:
    """The progress of a job: counts updates between the lines of the log, whose losses it keeps."""

    def __init__(self, stream: Any) -> None:
        self.terminal = TerminalLines(stream)
        self._known = ""
        self._begun: tuple[int, float] | None = None
        self._drawn = 0.0

    def show(self, text: str) -> None:
        """A line of `progress`."""
        self._known = UPDATE.fullmatch(text)[3]  # type: ignore[index]
        self.terminal.draw([with_bar(text)])

    def count(self, update: int, last: int | None) -> None:
        """After an update of a job that ends after `last`."""
        now = time.monotonic()
        self._begun = self._begun or (update, now)
        if last is None or now - self._drawn < EVERY:
            return
        self._drawn = now
        first, since = self._begun
        left = [f"{duration((last - update) * (now - since) / (update - first))} left"] if update > first else []
        known = [part for part in self._known.split(", ") if part and not part.endswith(" left")]
        self.terminal.draw([with_bar(f"update {update:,} of {last:,}: {', '.join([*known, *left])}")])


def with_bar(line: str) -> str:
    """A line of `progress` for a terminal, what matters most in front, for a narrow one cuts the end; any other line as it is."""
    found = UPDATE.fullmatch(line)
    if found is None:
        return line
    update, last = (int(number.replace(",", "")) for number in found.groups()[:2])
    parts = [part for part in found[3].split(", ") if part and not part.startswith("ppl ")]
    parts.sort(key=lambda part: not part.endswith(" left"))
    return ", ".join([f"{bar(update / last)} {found[1]} of {found[2]}", *parts])


def progress(message: str, validation: bool, last_update: int | None) -> str | None:
    """fairseq's statistics as a line for people; None where it has no count of updates."""
    values = dict(NUMBER.findall(message))
    try:
        update = int(float(values["num_updates"]))
        left = (last_update - update) / float(values["ups"]) if last_update and "ups" in values else None
    except (KeyError, ValueError, OverflowError, ZeroDivisionError):
        return None
    of = f" of {last_update:,}" if last_update and not validation else ""
    parts = [
        f"{NAMES.get(name, name)} {_shown(name, values[name])}"
        for name in SHOWN
        if name in values and not (validation and name == "wps")
    ]
    parts += [f"{duration(left)} left"] if left is not None and not validation else []
    return f"{'validation after' if validation else 'update'} {update:,}{of}: {', '.join(parts)}"


def _shown(name: str, value: str) -> str:
    return f"{float(value):,.0f}" if name == "wps" else value


def duration(seconds: float) -> str:
    """Such as 3 h 20 min, 12 min or 40 s."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
