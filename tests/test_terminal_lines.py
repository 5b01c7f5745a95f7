"""What a terminal shows in the end of lines that are drawn over themselves."""

from __future__ import annotations

import io
import re

import pytest

from smoe_mt.terminal_lines import TerminalLines, bar, can_draw


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """The lines of a terminal that knows carriage returns, line feeds, cursor up and clear to the end of the screen."""
    lines, row = [""], 0
    for part in re.findall(r"\r|\n|\x1b\[\d*[AJ]|[^\r\n\x1b]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            del lines[row:]
            lines.append("")
        elif part != "\r":
            lines[row] += part
    return lines


def test_lines_take_the_place_of_those_before() -> None:
    stream = Terminal()
    lines = TerminalLines(stream)
    lines.draw(["one 1", "two 1"])
    lines.draw(["one 2", "two 2", "three"])
    lines.draw(["two 3"])
    assert screen(stream.getvalue()) == ["two 3"]


def test_what_is_said_stays_above_them() -> None:
    stream = Terminal()
    lines = TerminalLines(stream)
    lines.above("begin")
    lines.draw(["one", "two"])
    lines.above("warning:\nodd")
    lines.draw(["one 2", "two 2"])
    lines.leave()
    stream.write("end")
    assert screen(stream.getvalue()) == ["begin", "warning:", "odd", "one 2", "two 2", "end"]


def test_cleared_lines_are_gone() -> None:
    stream = Terminal()
    lines = TerminalLines(stream)
    lines.draw(["one", "two"])
    lines.clear()
    stream.write("end")
    assert screen(stream.getvalue()) == ["end"]


def test_lines_are_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "3")
    stream = Terminal()
    TerminalLines(stream).draw(["123456", "2", "3", "4"])
    assert screen(stream.getvalue()) == ["1234", "2"]


@pytest.mark.parametrize(("done", "full"), [(-1.0, 0), (0.0, 0), (0.5, 6), (1.0, 12), (2.0, 12)])
def test_a_bar_has_one_length(done: float, full: int) -> None:
    assert len(bar(done)) == 14 and len(bar(done).replace(" ", "")) == full + 2


def test_lines_are_drawn_at_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert can_draw(Terminal()) and not can_draw(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw(Terminal())
