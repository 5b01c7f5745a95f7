"""Pieces coloured by their visits."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

import smoe_mt.report
from smoe_mt.generation import colours


@pytest.fixture(autouse=True)
def truecolor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")


def test_one_visit_is_light_and_all_visits_are_dark() -> None:
    assert colours.coloured("a", 1, 3) == "\x1b[38;2;27;31;36;48;2;232;241;248ma\x1b[0m"
    assert colours.coloured("a", 3, 3) == "\x1b[38;2;255;255;255;48;2;0;68;120ma\x1b[0m"


def test_a_terminal_of_256_colours_gets_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLORTERM")
    assert colours.coloured("a", 1, 3) == "\x1b[38;5;16;48;5;195ma\x1b[0m"
    assert colours.coloured("a", 3, 3) == "\x1b[38;5;231;48;5;24ma\x1b[0m"


def test_the_legend_has_a_colour_for_each_number_of_visits() -> None:
    shown = colours.legend(4)
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == "visits:  1  2  3  4 "
    assert len(set(re.findall(r"48;2;[0-9;]*m", shown))) == 4


def test_the_scale_is_that_of_the_report() -> None:
    script = (Path(smoe_mt.report.__file__).parent / "templates" / "sentences.js").read_text()
    mixed = re.findall(r"mix\((\d+), (\d+)\)", script)
    assert mixed == [(str(low), str(high)) for low, high in zip(colours.LIGHT, colours.DARK)]
    assert f"t > {colours.TURN}" in script


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colours.wanted(Terminal()) and not colours.wanted(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not colours.wanted(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours.wanted(Terminal())
