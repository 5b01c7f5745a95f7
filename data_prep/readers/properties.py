"""Java-style .properties files."""

from __future__ import annotations

import re

LINE = re.compile(r"\s*([\w.\-/]+)\s*[=:]\s*(.*)$")
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
CONTROL = {"n": "\n", "t": "\t", "r": "", "f": " "}


def read_properties(text: str) -> dict[str, str]:
    """Values by key, with continued lines joined and escapes resolved."""
    values: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.lstrip().startswith(("#", "!")):
            continue
        while _continues(line):
            line = line[:-1] + next(lines, "").lstrip()
        if match := LINE.match(line):
            values[match.group(1)] = ESCAPE.sub(_unescape, match.group(2).rstrip())
    return values


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code[1:], 16)) if len(code) == 5 else CONTROL.get(code, code)
