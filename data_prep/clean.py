"""Filters for parallel text, each counted. They know nothing of where the text is from; mark-up is the readers'
business.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from data_prep.language_check import Vocabulary, reads_like, told_apart
from data_prep.parallel import chunks, ordered_map
from data_prep.rows import Row, one_line

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
    "length ratio",
    "duplicates",
    "other side's language",
    "kept",
)
ENOUGH_FOR_STATISTICS = 500
CHUNK = 4000


@dataclass(frozen=True)
class CleanOptions:
    """Longest sentence in characters, largest factor between a pair's length ratio and the usual one, and whether
    copies are wanted.
    """

    max_chars: int = 1000
    max_ratio: float = 3.0
    keep_copies: bool = False


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
    return " ".join(bare.split()) or one_line(text)


def clean(
    rows: Iterable[Row], options: CleanOptions, placeholders: re.Pattern[str], workers: int
) -> tuple[list[Row], dict[str, int]]:
    """The rows that pass all filters, in order, and how many each filter took out (keys: STEPS)."""
    counts: Counter[str] = Counter(dict.fromkeys(STEPS, 0))
    kept: list[Row] = []
    tasks = ((chunk, options, placeholders) for chunk in chunks(rows, CHUNK))
    for chunk, reasons in ordered_map(_clean_chunk, tasks, workers):
        kept.extend(chunk)
        counts.update(reasons)
    kept = _counted(counts, "length ratio", kept, _usual_ratio(kept, options.max_ratio))
    kept = _counted(counts, "duplicates", kept, _first_times(kept))
    if not options.keep_copies and len(kept) >= ENOUGH_FOR_STATISTICS:
        kept = _counted(counts, "other side's language", kept, _right_language(kept))
    counts["kept"] = len(kept)
    return kept, dict(counts)


def _counted(counts: Counter[str], step: str, rows: Sequence[Row], passed: Sequence[bool]) -> list[Row]:
    counts[step] += len(passed) - sum(passed)
    return [row for row, good in zip(rows, passed) if good]


def _clean_chunk(task: tuple[list[Row], CleanOptions, re.Pattern[str]]) -> tuple[list[Row], Counter[str]]:
    rows, options, placeholders = task
    kept: list[Row] = []
    counts: Counter[str] = Counter()
    for row in rows:
        counts["read"] += 1
        row = Row(row.source, one_line(row.first), one_line(row.second))
        reason = fault(row.first, row.second, options, placeholders)
        if reason is None:
            kept.append(row)
        else:
            counts[reason] += 1
    return kept, counts


def fault(first: str, second: str, options: CleanOptions, placeholders: re.Pattern[str] = PLACEHOLDERS) -> str | None:
    """Why a pair of sentences is of no use by itself (one of STEPS), or ``None``."""
    if _broken(first) or _broken(second):
        return "broken characters"
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
    return None


def _broken(text: str) -> bool:
    return "\ufffd" in text or any(
        unicodedata.category(character) in ("Cc", "Cs", "Cn") for character in text if not character.isalnum()
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


def _usual_ratio(rows: Sequence[Row], largest: float) -> list[bool]:
    """Length ratios within a factor of the corpus's median, so that no script is at a disadvantage; short strings may
    differ more.
    """
    ratios = [(len(row.first) + 15) / (len(row.second) + 15) for row in rows]
    usual = median(ratios) if len(ratios) >= 20 else 1.0
    return [1 / largest <= ratio / usual <= largest for ratio in ratios]


def _first_times(rows: Sequence[Row]) -> list[bool]:
    seen: set[tuple[str, str]] = set()
    passed = []
    for row in rows:
        key = (row.first.casefold(), row.second.casefold())
        passed.append(key not in seen)
        seen.add(key)
    return passed


def _right_language(rows: Sequence[Row]) -> list[bool]:
    firsts, seconds = [folded(row.first).split() for row in rows], [folded(row.second).split() for row in rows]
    first, second = Vocabulary.of(firsts), Vocabulary.of(seconds)
    if not told_apart(firsts, first, second) or not told_apart(seconds, second, first):
        return [True] * len(rows)
    return [
        not reads_like(one, first, second) and not reads_like(two, second, first) for one, two in zip(firsts, seconds)
    ]
