"""Pieces coloured by their visits, for a terminal: the scale of the sentences in a report, from nearly white to dark blue."""

from __future__ import annotations

import os
from typing import TextIO

LIGHT, DARK = (232, 241, 248), (0, 68, 120)  # one visit, all visits
ON_DARK, ON_LIGHT = (255, 255, 255), (27, 31, 36)
TURN = 0.45  # from here on the letters are white
PLAIN = "\x1b[0m"


def wanted(stream: TextIO) -> bool:
    """Whether what is written there may be coloured: a terminal that shows colours, and nobody set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, visits: float, strata: int) -> str:
    """`text` on the colour of `visits`, a mean from 1 to `strata`."""
    share = (visits - 1) / max(strata - 1, 1)
    back = tuple(round(low + (high - low) * share) for low, high in zip(LIGHT, DARK))
    return f"\x1b[38;{_code(ON_DARK if share > TURN else ON_LIGHT)};48;{_code(back)}m{text}{PLAIN}"


def legend(strata: int) -> str:
    """What the colours mean."""
    return "visits: " + "".join(coloured(f" {visits} ", visits, strata) for visits in range(1, strata + 1))


def _code(colour: tuple[int, ...]) -> str:
    """Of ANSI: 24 bits where the terminal says that it knows them, else the nearest of its 6 x 6 x 6 colours."""
    if os.environ.get("COLORTERM") in ("truecolor", "24bit"):
        return "2;" + ";".join(map(str, colour))
    # The levels of this cube are 0, 95, 135, 175, 215 and 255.
    red, green, blue = (0 if part < 48 else 1 if part < 115 else (part - 35) // 40 for part in colour)
    return f"5;{16 + 36 * red + 6 * green + blue}"
