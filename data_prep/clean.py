"""Filters of a single pair of sentences, independent of the rest of its corpus. It does not matter where the text is from;
mark-up is the readers' business.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.language_check import Identifier
from smoe_mt.text import normalise

PLACEHOLDERS = re.compile(
    r"%(?:\d+\$)?(?:\d*\.\d+|0\d+)?(?:l|ll|z)?[diouxXeEfgGcs](?![A-Za-z])|%\(\w+\)[sdif]"
    r"|\$\{\w+\}|\{\s*\$?[A-Za-z_][\w.]*\s*\}|\{\d*\}"
)
STEPS = (
    "read",
    "broken characters",
    "empty",
    "no letters",
    "too long",
    "copies",
    "near copies",
    "placeholders differ",
    "another language",
    "length ratio",
    "duplicates",
    "near duplicates",
    "other side's language",
    "kept",
)


@dataclass(frozen=True)
class CleanOptions:
    """Longest sentence in characters, largest factor between a pair's length ratio and the usual one, whether copies
    are wanted, whether near duplicates are not, and whether a library identifies languages.
    """

    max_chars: int = 1000
    max_ratio: float = 3.0
    keep_copies: bool = False
    near_duplicates: bool = True
    identify: bool = False


class Folding(dict[int, str]):
    """A table for str.translate that keeps letters and marks and turns all else (digits, punctuation, white space) into
    spaces.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if unicodedata.category(character)[0] in "LM" else " "
        return self[code]


_FOLDING = Folding()


def folded(text: str) -> str:
    """The text without case, digits, punctuation and extra white space; texts of nothing else stay as they are."""
    bare = unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)
    return " ".join(bare.split()) or normalise(text)


def fault(
    first: str,
    second: str,
    options: CleanOptions,
    placeholders: re.Pattern[str] = PLACEHOLDERS,
    identifier: Identifier | None = None,
) -> str | None:
    """Why a pair of sentences is of no use by itself (one of STEPS), or ``None``."""
    if not first or not second:
        return "empty"
    if not any(map(str.isalpha, placeholders.sub(" ", first))) or not any(
        map(str.isalpha, placeholders.sub(" ", second))
    ):
        return "no letters"
    if max(len(first), len(second)) > options.max_chars:
        return "too long"
    if not options.keep_copies:
        one, other = folded(first), folded(second)
        if one == other:
            return "copies"
        if is_near_copy(one.split(), other.split()):
            return "near copies"
    if sorted(_compact(placeholders.findall(first))) != sorted(_compact(placeholders.findall(second))):
        return "placeholders differ"
    if identifier is not None and identifier.objects(first, second):
        return "another language"
    return None


def is_broken(text: str) -> bool:
    """Whether raw text has characters that a faulty conversion leaves behind: control characters, surrogates and the like."""
    return "\ufffd" in text or any(
        unicodedata.category(character) in ("Cc", "Cs", "Cn")
        for character in text
        if not character.isalnum() and not character.isspace()
    )


def _compact(found: list[str]) -> list[str]:
    return ["".join(placeholder.split()) for placeholder in found]


def is_near_copy(one: Sequence[str], other: Sequence[str], share: float = 0.75) -> bool:
    """Whether at least ``share`` of the longer sentence's words stand in the other in the same order (three words or
    more).
    """
    longer = max(len(one), len(other))
    if longer < 3 or (Counter(one) & Counter(other)).total() < share * longer:
        return False
    return common_subsequence(one, other) >= share * longer


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, candidate in enumerate(other, 1):
            diagonal, row[place] = row[place], diagonal + 1 if word == candidate else max(row[place], row[place - 1])
    return row[-1]
