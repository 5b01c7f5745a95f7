"""Which way text is written."""

from __future__ import annotations

import unicodedata
from collections import Counter

RTL, LTR = "rtl", "ltr"
STRONG = {"L": LTR, "R": RTL, "AL": RTL}  # Unicode's bidirectional classes of letters (UAX 9)


def direction_of(text: str) -> str:
    """`rtl` or `ltr`, as HTML's `dir`: that of most of its letters; `ltr` where there are as many of both, or none."""
    counts = Counter(STRONG.get(unicodedata.bidirectional(letter)) for letter in text)
    return RTL if counts[RTL] > counts[LTR] else LTR
