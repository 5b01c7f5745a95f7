"""The one form of a sentence: what is trained on, what is translated and what is scored all go through `normalise`."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

FORM: Final = "NFC"  # Unicode's composed form: canonically equal strings, which look the same, become the same string
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")


def normalise(text: str) -> str:
    """The sentence on one line, in Unicode's composed form (NFC).

    Every run of white space (tabs, line separators, no-break and ideographic spaces) becomes one space, none at the ends;
    byte order marks and control characters go. Nothing else changes: joiners, full-width signs, ligatures and the like stay.
    """
    if _NOT_TEXT.search(text):
        text = _NOT_TEXT.sub("", text)
    return " ".join(unicodedata.normalize(FORM, text).split())
