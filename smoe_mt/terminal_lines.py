"""Lines at the foot of a terminal that are drawn over themselves, such as progress; what else is said goes above them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

CLEAR = "\033[J"  # from here to the end of the screen
BAR = 12  # places


def bar(done: float) -> str:
    """A share from 0 to 1, such as [=====>    ]."""
    filled = round(BAR * min(max(done, 0.0), 1.0))
    full = "=" * filled if filled == BAR else ("=" * filled)[1:] + ">" * (filled > 0)
    return f"[{full.ljust(BAR)}]"


def can_draw(stream: Any) -> bool:
    """Whether lines that are drawn over themselves are shown there."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


class TerminalLines:
    """`stream`: a terminal."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.lines: tuple[str, ...] = ()

    def draw(self, lines: Sequence[str]) -> None:
        """These lines in the place of those that are there, each cut to the width of the terminal."""
        lines = tuple(lines)[: shutil.get_terminal_size().lines - 1]
        self._write(self._back() + self._shown(lines))
        self.lines = lines

    def above(self, text: str) -> None:
        """A text that stays, and the lines again below it."""
        self._write(f"{self._back()}{text}\n{self._shown(self.lines)}")

    def leave(self) -> None:
        """Let the lines stand where they are; what is written next begins on a line of its own."""
        if self.lines:
            self._write("\n")
        self.lines = ()

    def clear(self) -> None:
        """Take the lines away."""
        self.draw(())

    def _back(self) -> str:
        """To the beginning of the first line that is there."""
        up = len(self.lines) - 1
        return f"\r{f'{chr(27)}[{up}A' if up > 0 else ''}{CLEAR}"

    def _shown(self, lines: Sequence[str]) -> str:
        size = shutil.get_terminal_size()
        return "\n".join(line[: size.columns - 1] for line in lines)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
