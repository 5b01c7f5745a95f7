"""The cleaning of a whole pair, in streams: memory does not grow with the text.

Rows that pass by themselves (clean.fault) go to a file, with what the corpus-wide filters need of each (length ratio,
hashes) in columns beside it. These filters decide on masks of one byte a row, and a second pass writes the rows that are
left, with the facts that splitting needs (split.FACTS).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from data_prep.clean import STEPS, CleanOptions, fault, folded, is_broken
from data_prep.columns import evenly_spaced, first_occurrences, read_blocks
from data_prep.files import read_lines
from data_prep.language_check import FEWEST_TO_TELL, Identifier, Vocabulary, evidence, reads_like, told_apart
from data_prep.rows import Row, hash_of
from data_prep.split import FACTS, FACTS_FILE, ROWS_FILE, SplitOptions, facts_of
from smoe_mt.processes import chunks, ordered_map
from smoe_mt.text import normalise

ENOUGH_FOR_A_MEDIAN = 20
RATIOS_LOOKED_AT = 2_000_000
SENTENCES_LOOKED_AT = 200_000
CHUNK = 4000


@dataclass(frozen=True)
class Filters:
    """All that decides about the rows of one pair."""

    pair: str
    options: CleanOptions
    split: SplitOptions
    placeholders: re.Pattern[str]
    identifier: Identifier | None = None


@dataclass(frozen=True)
class _Sides:
    """The words of both sides, for telling them apart."""

    first: Vocabulary
    second: Vocabulary


def clean_pair(rows: Iterable[Row], filters: Filters, folder: Path, workers: int) -> dict[str, int]:
    """Write the rows that pass all filters, in order, and their facts to ``folder``; returns how many each filter took
    out (keys: STEPS).
    """
    counts: Counter[str] = Counter(dict.fromkeys(STEPS, 0))
    passed = _by_themselves(rows, filters, folder, counts, workers)
    passed = _counted(counts, "length ratio", passed, _usual_ratio(folder, passed, filters.options.max_ratio))
    passed = _counted(counts, "duplicates", passed, first_occurrences(folder / "exact", passed))
    if not filters.options.near_duplicates:
        passed = _counted(counts, "near duplicates", passed, first_occurrences(folder / "near", passed))
    sides = None if filters.options.keep_copies else _tell_apart(folder, passed)
    _write(filters, folder, passed, sides, counts, workers)
    for name in ("candidates", "ratio", "exact", "near"):
        (folder / name).unlink()
    return dict(counts)


def _counted(counts: Counter[str], step: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    counts[step] += int(before.sum() - after.sum())
    return after


def _by_themselves(
    rows: Iterable[Row], filters: Filters, folder: Path, counts: Counter[str], workers: int
) -> np.ndarray:
    """Write the rows that nothing is wrong with and their measures; returns a mask of as many rows, all true."""
    with ExitStack() as stack:
        text = stack.enter_context(open(folder / "candidates", "w", encoding="utf-8", newline="\n"))
        columns = [stack.enter_context(open(folder / name, "wb")) for name in ("ratio", "exact", "near")]
        for lines, measures, reasons in ordered_map(_look_at, chunks(rows, CHUNK), filters, workers):
            text.writelines(lines)
            for column, measure in zip(columns, measures):
                column.write(measure.tobytes())
            counts.update(reasons)
    return np.ones(counts["read"] - sum(counts[step] for step in STEPS[1:]), dtype=bool)


def _look_at(rows: list[Row], filters: Filters) -> tuple[list[str], tuple[np.ndarray, ...], Counter[str]]:
    """Lines of the good rows of a chunk; their length ratio, hash and hash of the folded text; what was wrong with
    others.
    """
    lines: list[str] = []
    ratios, exact, near = [], [], []
    counts: Counter[str] = Counter(read=len(rows))
    for row in rows:
        if is_broken(row.first) or is_broken(row.second):
            counts["broken characters"] += 1
            continue
        row = Row(row.source, normalise(row.first), normalise(row.second))
        reason = fault(row.first, row.second, filters.options, filters.placeholders, filters.identifier)
        if reason is not None:
            counts[reason] += 1
            continue
        lines.append("\t".join(row) + "\n")
        ratios.append((len(row.first) + 15) / (len(row.second) + 15))
        exact.append(hash_of(row.first.casefold(), row.second.casefold()))
        near.append(exact[-1] if filters.options.near_duplicates else hash_of(folded(row.first), folded(row.second)))
    columns = np.array(ratios), np.array(exact, dtype=np.uint64), np.array(near, dtype=np.uint64)
    return lines, columns, counts


def _usual_ratio(folder: Path, passed: np.ndarray, largest: float) -> np.ndarray:
    """Length ratios within a factor of the corpus's median, so that no script is at a disadvantage; short strings may
    differ more.
    """
    sample = evenly_spaced(folder / "ratio", np.float64, len(passed), RATIOS_LOOKED_AT)
    usual = np.median(sample) if len(passed) >= ENOUGH_FOR_A_MEDIAN else 1.0
    good = [
        (1 / largest <= ratio / usual) & (ratio / usual <= largest) for ratio in read_blocks(folder / "ratio", "f8")
    ]
    return np.concatenate([np.empty(0, dtype=bool), *good])


def _rows(folder: Path, passed: Iterable[object]) -> Iterator[Row]:
    return (Row(*line.split("\t")) for line in compress(read_lines(folder / "candidates"), passed))


def _tell_apart(folder: Path, passed: np.ndarray) -> _Sides | None:
    """The words of both sides, counted on evenly spaced rows; ``None`` if there are too few or the sides are too alike."""
    count = int(passed.sum())
    if count < FEWEST_TO_TELL:
        return None
    step = max(1, -(-count // SENTENCES_LOOKED_AT))
    sample = passed & ((np.cumsum(passed, dtype=np.int32 if count < 2**31 else np.int64) - 1) % step == 0)
    first, second = (Vocabulary.of(folded(row[side]).split() for row in _rows(folder, sample)) for side in (1, 2))
    firsts = (evidence(folded(row.first).split(), first, second) for row in _rows(folder, sample))
    seconds = (evidence(folded(row.second).split(), second, first) for row in _rows(folder, sample))
    return _Sides(first, second) if told_apart(firsts) and told_apart(seconds) else None


def _write(
    filters: Filters, folder: Path, passed: np.ndarray, sides: _Sides | None, counts: Counter[str], workers: int
) -> None:
    with (
        open(folder / ROWS_FILE, "w", encoding="utf-8", newline="\n") as text,
        open(folder / FACTS_FILE, "wb") as facts,
    ):
        tasks = chunks(_rows(folder, passed), CHUNK)
        for lines, found, wrong in ordered_map(_finish, tasks, (filters, sides), workers):
            text.writelines(lines)
            facts.write(found.tobytes())
            counts["other side's language"] += wrong
            counts["kept"] += len(lines)


def _finish(rows: list[Row], common: tuple[Filters, _Sides | None]) -> tuple[list[str], np.ndarray, int]:
    """Lines of the rows of a chunk whose sides are in the right languages, their facts, and how many others there are."""
    filters, sides = common
    good = [row for row in rows if sides is None or not _wrong_side(row, sides)]
    facts = np.array([facts_of(filters.pair, row, filters.split) for row in good], dtype=FACTS)
    return ["\t".join(row) + "\n" for row in good], facts, len(rows) - len(good)


def _wrong_side(row: Row, sides: _Sides) -> bool:
    one, other = folded(row.first).split(), folded(row.second).split()
    return reads_like(one, sides.first, sides.second) or reads_like(other, sides.second, sides.first)
