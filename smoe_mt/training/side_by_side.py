"""``python -m smoe_mt.training.side_by_side``: several trainings on one terminal, a line each.

Reads "NAME | LINE" from standard input, the output of ``smoe-mt train`` with the name of its model before each line. Progress is drawn
in place, the last of each model; all else stays above it. Where the output is no terminal, it is written as it comes.
"""

from __future__ import annotations

import signal
import sys
from typing import TextIO

from smoe_mt.terminal_lines import TerminalLines, can_draw
from smoe_mt.training.console import ENDED, UPDATE, with_bar

BETWEEN = " | "


def copy(source: TextIO, target: TextIO) -> None:
    """From `source` to `target`, until it ends."""
    if not can_draw(target):
        for line in source:
            target.write(line)
            target.flush()
        return
    shown = TerminalLines(target)
    last: dict[str, str] = {}
    for line in source:
        name, between, text = line.rstrip("\n").partition(BETWEEN)
        if between and UPDATE.fullmatch(text):
            last[name] = with_bar(text)
        else:
            shown.above(line.rstrip("\n"))
            if text.startswith(ENDED):
                last.pop(name, None)
        width = max(map(len, last), default=0)
        shown.draw([f"{name.ljust(width)}  {text}" for name, text in last.items()])
    shown.leave()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the trainings have something to say still
    copy(sys.stdin, sys.stdout)
